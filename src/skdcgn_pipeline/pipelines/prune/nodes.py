"""Nodes of the prune stage."""

import time
from pathlib import Path
from typing import Any

import click
import pandas as pd

from skdcgn_pipeline.artifacts.prune import as_table, describe, plan_pruning, remove_unneeded
from skdcgn_pipeline.io.registry import registered_models
from skdcgn_pipeline.parameters import Prune


def prune_data(root: Path, keep_last: int, prune: Prune, parameters: dict[str, Any]) -> pd.DataFrame:
    """List what is no longer needed, and remove it if that is confirmed."""
    entries = plan_pruning(root, keep_last, prune.unfinished_days, registered_models(), parameters, time.time())
    if prune.confirm:
        entries = remove_unneeded(root, entries)
    click.echo(describe(root, entries, prune.confirm))
    return as_table(root, entries)
