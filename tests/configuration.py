"""Read the settings of `conf/` as Kedro's loader does, without a session."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

# In this order: one stands inside another.
FREE_WORDS = {
    "${globals:variant}": "double_colored",
    "${globals:assets}": "data/01_raw",
    "${runtime_params:variant,double_colored}": "double_colored",
    "${runtime_params:images.source,mnist}": "mnist",
    "${runtime_params:name,none}": "none",
}


def read_folder(folder: Path) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in sorted(folder.glob("parameters*.yml")):
        text = path.read_text(encoding="utf-8")
        for word, value in FREE_WORDS.items():
            text = text.replace(word, value)
        merge(merged, yaml.safe_load(text))
    return OmegaConf.to_container(OmegaConf.create(merged), resolve=True)


def merge(into: dict[str, Any], changes: dict[str, Any]) -> None:
    """Merge as the configuration loader does: mappings are joined, everything else is replaced."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)
