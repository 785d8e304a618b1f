"""What a person at a terminal sees when a run has ended: where the time went and what came out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

PERCENT = 100.0
SECONDS_PER_MINUTE = 60


def summarise_run(seconds: Mapping[str, float], results: Mapping[str, Any]) -> Table:
    """Put a run into one table.

    Args:
        seconds: By stage, in the order in which they ran.
        results: What datasets hold, by name; of these, `student_comparison` and `accuracy_summary` are told.
    """
    table = Table(title="What was run", title_justify="left", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for stage, own in seconds.items():
        table.add_row(stage, _told(own))
    table.add_row("in all", _told(sum(seconds.values())), style="bold", end_section=True)
    for what, value in headlines(results):
        table.add_row(what, value)
    return table


def headlines(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures that people look at first: the students' likeness, then test accuracy in %."""
    rows = []
    comparison = results.get("student_comparison")
    if isinstance(comparison, pd.DataFrame):
        by_mechanism = comparison.set_index("mechanism")
        rows.append(("parameters of the students", f"{by_mechanism['student_parameters']['all']:,.0f}"))
        rows.append(("mask IoU with the teacher", f"{by_mechanism['mask_iou']['shape']:.3f}"))
    accuracy = results.get("accuracy_summary")
    if isinstance(accuracy, pd.DataFrame):
        for row in accuracy[accuracy["split"] == "test"].to_dict("records"):
            mean, high = PERCENT * row["mean_accuracy"], PERCENT * row["interval_high"]
            spread = f" ± {high - mean:.1f}" if row["num_seeds"] > 1 else ""
            rows.append((f"test accuracy, trained on {row['trained_on']}, {row['subset']}", f"{mean:.1f}{spread} %"))
    return rows


def show_summary(seconds: Mapping[str, float], results: Mapping[str, Any]) -> None:
    """Print the table where somebody looks: on a terminal, and nowhere else."""
    if seconds and sys.stdout.isatty():
        Console().print(summarise_run(seconds, results))


def _told(seconds: float) -> str:
    return f"{seconds / SECONDS_PER_MINUTE:.1f} min" if seconds >= SECONDS_PER_MINUTE else f"{seconds:.1f} s"
