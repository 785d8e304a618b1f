"""What terminals and logs show: a record a line; errors in one line; at the end, what was run and what came out."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from kedro.logging import RichHandler

from skdcgn_pipeline.runtime.errors import InterruptedRunError, UserError
from skdcgn_pipeline.runtime.progress import stop_requested, tell_duration

PERCENT = 100.0
INTERRUPTED = 130  # the exit status that shells give what Ctrl-C ended
# What Kedro says of every run, and how it would go on: by other means than the same command once more.
LEFT_OUT = ("Using synchronous mode", "No nodes ran. Repeat", "You can resume the pipeline run from")


class InterruptedRun(click.ClickException):
    """Ends a command that was asked to stop."""

    exit_code = INTERRUPTED


class PlainHandler(logging.Handler):
    """Writes a record a line, as long as it is, to where prints go."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        click.echo(self.format(record))


def _is_told(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    if stop_requested() and "failed with error" in message:
        return False  # a node that was asked to stop; the command ends with the same sentence
    return not any(text in message for text in LEFT_OUT)


def prepare_logs() -> None:
    """Leave out what Kedro says of every run; where no terminal shows them, let records be lines of any length."""
    handlers = logging.root.handlers
    for number, handler in enumerate(handlers):
        if isinstance(handler, RichHandler) and not handler.console.is_terminal:
            handlers[number] = PlainHandler()
            handlers[number].setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
        handlers[number].addFilter(_is_told)  # once, however often this is called


def written_for_users(error: BaseException | None) -> BaseException | None:
    """Return the first error in the chain of causes that was written for the user, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def is_interruption(error: BaseException) -> bool:
    """Tell whether a run ends because it was asked to."""
    return isinstance(written_for_users(error), InterruptedRunError)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """On the command line, tell errors that were written for the user in one line instead of a traceback.

    Raises:
        click.ClickException: With the message of the first such error in the chain of causes; the exit status is 130
            where the run was asked to stop, else 1.
    """
    try:
        yield
    except Exception as error:
        cause = written_for_users(error)
        if cause is None or click.get_current_context(silent=True) is None or os.environ.get("SKDCGN_TRACEBACK"):
            raise
        kind = InterruptedRun if is_interruption(error) else click.ClickException
        raise kind(str(cause)) from error


def tell_run(seconds: Mapping[str, float], results: Mapping[str, Any], places: Mapping[str, str]) -> str:
    """Say where the time went, what came out, where it is, and what to do next.

    Args:
        seconds: By stage, in the order in which they ran.
        results: What datasets hold, by name; of these, `student_comparison` and `accuracy_summary` are told.
        places: Paths, addresses and commands by what they are.

    Returns:
        A line for each.
    """
    told = [("in all", tell_duration(sum(seconds.values())))] if len(seconds) > 1 else []
    parts = {"What was run": [(stage, tell_duration(own)) for stage, own in seconds.items()] + told}
    parts["What came out"] = headlines(results)
    lines = []
    for title, rows in parts.items():
        width = max((len(what) for what, _ in rows), default=0)
        lines += [title, *(f"  {what:<{width}}  {value}" for what, value in rows)] if rows else []
    return "\n".join([*lines, *(f"{what}: {place}" for what, place in places.items() if place)])


def headlines(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures that people look at first: the students' likeness, then test accuracy in %."""
    return [(what, told) for what, _, told in _figures(results)]


def headline_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the same as the metrics `headline/<what>`: numbers of parameters, and shares from 0 to 1."""
    return {f"headline/{what}": value for what, value, _ in _figures(results)}


def _figures(results: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """Return what each headline is about, its value, and how it is written."""
    rows: list[tuple[str, float, str]] = []
    comparison = results.get("student_comparison")
    if comparison is not None:
        by_mechanism = comparison.set_index("mechanism")
        students, teacher = (by_mechanism[f"{whose}_parameters"]["all"] for whose in ("student", "teacher"))
        known = teacher is not None and teacher > 0  # one that is no network has none
        share = f" ({PERCENT * students / teacher:.1f} % of the teacher)" if known else ""
        rows.append(("parameters of the students", students, f"{students:,.0f}{share}"))
        likeness = by_mechanism["mask_iou"]["shape"]
        rows.append(("mask IoU with the teacher", likeness, f"{PERCENT * likeness:.1f} %"))
    accuracy = results.get("accuracy_summary")
    if accuracy is not None:
        from skdcgn_pipeline.reporting.headlines import headline_split, percent

        split = headline_split(accuracy)
        shown = accuracy[(accuracy["split"] == split) & accuracy["subset"].isin(["all", "worst group"])]
        for row in shown.to_dict("records"):
            told = percent(row["mean_accuracy"], row["interval_high"] if row["num_seeds"] > 1 else math.nan)
            subset = "" if row["subset"] == "all" else f", {row['subset']}"
            what = f"accuracy on {split}, trained on {row['trained_on']}{subset}"
            rows.append((what, row["mean_accuracy"], f"{told} %"))
    return rows
