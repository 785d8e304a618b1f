"""The Makefile's targets work where the environment that they make is not activated."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def test_the_mlflow_ui_is_found_without_an_activated_environment(project: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "kedro"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "kedro was found: $1"\n')
    program.chmod(0o755)
    installed = tmp_path / ".installed"
    installed.touch()

    done = subprocess.run(
        ["make", f"--old-file={installed}", "ui", f"VENV={tmp_path}"],
        cwd=project,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert "kedro was found: ui" in done.stdout, done.stderr
