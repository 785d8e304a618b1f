"""Settings files read without Kedro."""

from __future__ import annotations

import copy
from typing import Any


def merge(into: dict[str, Any], changes: dict[str, Any]) -> None:
    """Merge as the configuration loader does: mappings are joined, everything else is replaced."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)
