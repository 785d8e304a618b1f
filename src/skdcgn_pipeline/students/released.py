"""The students that come with the package: weights, card and page of each release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RELEASED = Path(__file__).parents[1] / "released"
RELEASE_PREFIX = "students_"


def released_path(name: str, suffix: str) -> Path:
    """Return a file of a release: `.safetensors` (weights), `.json` (card) or `.md` (card to read)."""
    return RELEASED / f"{RELEASE_PREFIX}{name}{suffix}"


def released_card(name: str) -> dict[str, Any]:
    """Return what belongs to a release: teacher, training, command and figures."""
    return json.loads(released_path(name, ".json").read_text(encoding="utf-8"))


def released_students() -> list[str]:
    """Return the names of the students that come with the package."""
    paths = sorted(RELEASED.glob(f"{RELEASE_PREFIX}*.safetensors"))
    return [path.stem.removeprefix(RELEASE_PREFIX) for path in paths]
