"""Nodes of the prune stage."""

import time
from typing import Any

import pandas as pd

from skdcgn_pipeline.artifacts.prune import as_table, describe, plan_pruning, remove_unneeded
from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.io.registry import registered_models
from skdcgn_pipeline.parameters import Prune


def prune_data(run: Run, keep_last: int, prune: Prune, parameters: dict[str, Any]) -> tuple[pd.DataFrame, str]:
    """List what is no longer needed, and remove it if that is confirmed; a table and what is said of it."""
    root = run.store.root.parent
    entries = plan_pruning(root, keep_last, prune.unfinished_days, registered_models(), parameters, time.time())
    if prune.confirm:
        entries = remove_unneeded(root, entries)
    return as_table(root, entries), describe(root, entries, prune.confirm)
