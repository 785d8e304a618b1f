"""The Dockerfile, which is not built here, against what it copies and installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def test_the_image_is_made_of_what_is_there(project: Path) -> None:
    text = (project / "Dockerfile").read_text(encoding="utf-8")
    ignored = (project / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        name for line in re.findall(r"^COPY --chown=someone (.+) \S+$", text, re.MULTILINE) for name in line.split()
    }
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r'--editable "\.\[(.+)\]"', text)

    assert ignored[0] == "*"
    assert copied == let_in - {"conf/local/.gitkeep"}
    assert all((project / name).exists() for name in copied)
    assert {settings["readme"], *settings["license-files"], "pyproject.toml", "constraints.txt"} <= copied
    assert set(extras.split(",")) <= settings["optional-dependencies"].keys()
    assert "sqlite:////project/data/mlflow.db" in text  # in the folder that is mounted
    assert text.index("USER someone") < text.index("pip install")
