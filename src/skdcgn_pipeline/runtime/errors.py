"""Errors that a user can act on: what was wrong, what is expected, what came, what to do."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

LONGEST_LINE = 300
MOST_CHOICES = 30  # more are not listed where one of them was meant
# What stands between `//` and the last `@` before the path; the second form is a password with an unquoted slash.
_CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/?#]*@|[^\s/:@]+:(?!\d{1,5}[/?#])[^\s@]*@)")


def without_credentials(value: Any) -> Any:
    """Return a text, or settings with texts in them, without user and password in its addresses."""
    if isinstance(value, Mapping):
        return {name: without_credentials(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_credentials(part) for part in value]
    return _CREDENTIALS.sub("", value) if isinstance(value, str) else value


def printable(text: str, kept: str = "") -> str:
    """Return a text for a terminal or a log: quoted where names in it would steer the terminal, without credentials."""
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in without_credentials(text))


def _quote(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage(), "\n\t"), None
    return True


def print_messages(level: int | None = None) -> None:
    """Let all messages of logs be printable texts; with a level, show those from it on in a command without Kedro."""
    if level is not None:
        logging.basicConfig(level=level, format="%(message)s")
    for handler in logging.root.handlers:
        handler.addFilter(_quote)


class UserError(Exception):
    """An error that is told by its message alone, without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, "\n"))


def exit_status(command: Callable[[], None]) -> int:
    """Run a command without Kedro; an error that a user can act on is told on stderr. Returns its exit status."""
    try:
        command()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


class SettingError(UserError, ValueError):
    """A setting or an input that cannot be used, told in one line.

    Args:
        setting: Name of the setting or input, as the user writes it.
        expected: What it must be.
        got: What came instead.
        remedy: What to do about it.
    """

    def __init__(self, setting: str, expected: str, got: object, remedy: str) -> None:
        super().__init__(printable(f"{setting}: expected {expected}, got {got}. ") + remedy)
        self.setting = setting


def told_in_one_line(error: object) -> str:
    """Return what an error of a library says, in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}..."


class DamagedFileError(UserError, ValueError):
    """A stored file whose content no longer matches what was recorded when it was written."""


class InterruptedRunError(UserError, RuntimeError):
    """The run was asked to stop, saved its state and can go on from there."""


class UnitFailedError(UserError, RuntimeError):
    """Parts of a work that is done side by side failed; the others are finished and saved."""


class StudyFailedError(UserError, RuntimeError):
    """Parts of a study failed; everything else of it is finished and saved."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a sentence with the valid name closest to `name`, or the list of all valid names."""
    known = sorted(choices)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Valid names: {', '.join(known)}."


def check_choice(setting: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`; a `SettingError` has the nearest valid name."""
    known = list(choices)
    if value not in known:
        expected = f"one of {', '.join(known)}" if len(known) <= MOST_CHOICES else "a name that is known"
        raise SettingError(setting, expected, repr(value), nearest(str(value), known))
    return value


def check_whole(setting: str, value: object, least: int, remedy: str) -> int:
    """Return `value` if it is a whole number from `least` on; a `SettingError` has this remedy."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        got = "nothing" if value is None else repr(value)
        raise SettingError(setting, f"a whole number from {least} on", got, remedy)
    return value
