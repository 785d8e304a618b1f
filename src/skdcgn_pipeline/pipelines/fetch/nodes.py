"""Nodes of the fetch stage."""

from __future__ import annotations

import logging

import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.images import assets
from skdcgn_pipeline.parameters import Fetch

logger = logging.getLogger(__name__)


def fetch_assets(run: Run, fetch: Fetch) -> pd.DataFrame:
    """Bring all assets of the environment; returns one row per asset."""
    table = assets.fetch_assets(run.assets, fetch.groups, fetch.mirror)
    logger.info("assets in %s: %s", run.assets, assets.count_states(table))
    return table
