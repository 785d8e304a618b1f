"""What terminals and logs show: a record a line; errors in one line; at the end, what was run and what came out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from kedro.logging import RichHandler

from skdcgn_pipeline.runtime.errors import InterruptedRunError, UserError
from skdcgn_pipeline.runtime.progress import stop_requested, tell_duration

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
    from skdcgn_pipeline.reporting.headlines import headlines

    told = [("in all", tell_duration(sum(seconds.values())))] if len(seconds) > 1 else []
    parts = {"What was run": [(stage, tell_duration(own)) for stage, own in seconds.items()] + told}
    parts["What came out"] = [(what, told) for what, _, told in headlines(results)]
    lines = []
    for title, rows in parts.items():
        width = max((len(what) for what, _ in rows), default=0)
        lines += [title, *(f"  {what:<{width}}  {value}" for what, value in rows)] if rows else []
    return "\n".join([*lines, *(f"{what}: {place}" for what, place in places.items() if place)])
