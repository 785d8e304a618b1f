"""Read the settings of `conf/` as Kedro's loader does, without a session."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from settings_files import merge

GLOBALS = {"variant": "double_colored", "assets": "data/01_raw"}


def read_folder(folder: Path, **asked: str) -> dict[str, Any]:
    """Read the settings of a folder, with those that `--params` asks for."""
    merged: dict[str, Any] = {}
    for path in sorted(folder.glob("parameters*.yml")):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"\$\{globals:(\w+)\}", lambda match: GLOBALS[match[1]], text)
        text = re.sub(r"\$\{runtime_params:([\w.]+),([^{}]*)\}", lambda match: asked.get(match[1], match[2]), text)
        merge(merged, yaml.safe_load(text))
    return OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
