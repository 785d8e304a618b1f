"""Errors that a user can act on: what was wrong, what is expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SettingError(ValueError):
    """A setting or an input that cannot be used, told in one line.

    Args:
        setting: Name of the setting or input, as the user writes it.
        expected: What it must be.
        got: What came instead.
        remedy: What to do about it.
    """

    def __init__(self, setting: str, expected: str, got: object, remedy: str) -> None:
        super().__init__(f"{setting}: expected {expected}, got {got}. {remedy}")
        self.setting = setting


class DamagedFileError(ValueError):
    """A stored file whose content no longer matches what was recorded when it was written."""


class InterruptedRunError(RuntimeError):
    """The run was asked to stop, saved its state and can go on from there."""


class StudyFailedError(RuntimeError):
    """Parts of a study failed; everything else of it is finished and saved."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a sentence with the valid name closest to `name`, or the list of all valid names."""
    known = sorted(choices)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Valid names: {', '.join(known)}."


def check_choice(setting: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        SettingError: With the nearest valid name.
    """
    known = list(choices)
    if value not in known:
        raise SettingError(setting, f"one of {', '.join(known)}", repr(value), nearest(str(value), known))
    return value
