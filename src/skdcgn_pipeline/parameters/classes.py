"""A choice of classes, as several stages take it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from skdcgn_pipeline.runtime.errors import SettingError, check_choice

HIGHEST_CLASS = 10**6  # far above what any data set has; a range becomes a list of its numbers


def _parse_classes(value: Any) -> Any:
    """Put a choice of classes into one form: None (all), their numbers in order, or the name of a list."""
    if isinstance(value, dict):
        if set(value) != {"first", "last"}:
            raise ValueError(f"a range of classes has 'first' and 'last', got {sorted(value)}")
        value = f"{value['first']}-{value['last']}"
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*-\s*\d+\s*", value):
        first, last = (int(part) for part in value.split("-"))
        if last > HIGHEST_CLASS:
            raise ValueError(f"expected classes up to {HIGHEST_CLASS:,}, got {value!r}")
        if first > last:
            raise ValueError(f"a range of classes begins with the lower one, got {value!r}")
        return tuple(range(first, last + 1))
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list | tuple):
        if not value or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value):
            raise ValueError(f"expected class numbers from 0 on, at least one, got {list(value)}")
        return tuple(sorted(set(value)))
    return value


# All classes (null), a number, a list of them, a range with both ends ("0-99" or {first: 0, last: 99}), or the
# name of a list in `class_lists`.
Classes = Annotated[tuple[int, ...] | str | None, BeforeValidator(_parse_classes)]
ClassLists = dict[str, Annotated[tuple[int, ...], BeforeValidator(_parse_classes)]]


def choose_classes(
    setting: str, classes: tuple[int, ...] | str | None, num_classes: int, lists: Mapping[str, Sequence[int]]
) -> tuple[int, ...] | None:
    """Return the class numbers that a setting stands for, in order; None stands for all.

    Args:
        setting: Name of the setting, for the message.
        classes: A value of the type `Classes`.
        num_classes: Classes of the generator.
        lists: The named lists.

    Raises:
        SettingError: If a name is unknown or a class is out of range.
    """
    if isinstance(classes, str):
        if not lists:
            raise SettingError(setting, "class numbers", f"the name '{classes}'", "No lists of classes have names.")
        classes = _parse_classes(list(lists[check_choice(setting, classes, lists)]))
    if classes is None or classes == tuple(range(num_classes)):
        return None
    assert isinstance(classes, tuple)
    if wrong := [one for one in classes if not 0 <= one < num_classes]:
        remedy = "Leave out the others, or use a teacher that knows them."
        raise SettingError(setting, f"classes 0 to {num_classes - 1}", f"{wrong[0]} ({len(wrong)} such)", remedy)
    return classes
