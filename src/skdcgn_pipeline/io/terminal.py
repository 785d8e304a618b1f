"""What a person at a terminal sees: errors in one line; at the end, where the time went and what came out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from skdcgn_pipeline.runtime.errors import UserError

PERCENT = 100.0
SECONDS_PER_MINUTE = 60


def written_for_users(error: BaseException | None) -> BaseException | None:
    """Return the first error in the chain of causes that was written for the user, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """On the command line, tell errors that were written for the user in one line instead of a traceback.

    Raises:
        click.ClickException: With the message of the first such error in the chain of causes.
    """
    try:
        yield
    except Exception as error:
        cause = written_for_users(error)
        if cause is None or click.get_current_context(silent=True) is None or os.environ.get("SKDCGN_TRACEBACK"):
            raise
        raise click.ClickException(str(cause)) from error


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
    if comparison is not None:
        by_mechanism = comparison.set_index("mechanism")
        rows.append(("parameters of the students", f"{by_mechanism['student_parameters']['all']:,.0f}"))
        rows.append(("mask IoU with the teacher", f"{by_mechanism['mask_iou']['shape']:.3f}"))
    accuracy = results.get("accuracy_summary")
    if accuracy is not None:
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
