"""The check of a GPU, in miniature on a CPU: every part is there, and one that fails is told."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skdcgn_pipeline.runtime import compute

PARTS = ["goldens", "steps", "throughput", "distillation", "ensemble", "training"]

pytest.importorskip("yaml", reason="the settings are YAML")


def told_in(out: Path) -> dict[str, Any]:
    return json.loads((out / "gpu_check.json").read_text())


@pytest.fixture
def program(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`tools/gpu_check.py`, to be called in this process."""
    monkeypatch.setattr(sys, "path", [str(project / "tools"), *sys.path])
    # What makes it brief would outlive the test.
    monkeypatch.setattr(importlib.import_module("gpu_measures"), "make_brief", lambda: None)
    monkeypatch.setattr(compute, "COMPILER", "eager")
    return importlib.import_module("gpu_check")


@pytest.fixture
def check(
    project: Path, program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Check in miniature: status, and what was written."""

    def call(*arguments: str, golden: Path, assets: Path = project.parent / "shared" / "data") -> Any:
        monkeypatch.setenv("SKDCGN_GOLDEN", str(golden))
        monkeypatch.setenv("SKDCGN_ASSETS", str(assets))
        out = tmp_path / "out"
        return program.main(["--miniature", "--out", str(out), *arguments]), told_in(out)

    return call


@pytest.mark.slow
def test_every_part_has_finite_figures_and_a_table(project: Path, program: ModuleType, tmp_path: Path) -> None:
    if importlib.util.find_spec("pytorch_pretrained_biggan") is None:
        pytest.skip("the ImageNet teacher needs the extra 'imagenet'")
    words = [sys.executable, "tools/gpu_check.py", "--miniature", "--out", str(tmp_path)]
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("SKDCGN_")}
    subprocess.run(words, cwd=project, env=surroundings | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    told = told_in(tmp_path)
    assert list(told["parts"]) == PARTS
    for name, part in told["parts"].items():
        if name == "goldens" and part["status"] == "skipped":
            assert "SKDCGN_GOLDEN" in part["reason"]
            continue
        assert part["status"] == "done", part
        assert part["rows"], name
        assert all(math.isfinite(row["value"]) for row in part["rows"]), name
    assert all(row["met"] for name in ("goldens", "steps") for row in told["parts"][name]["rows"])
    assert (tmp_path / "students_wildlife" / "model.safetensors").is_file()

    page = tmp_path / "gpu.md"
    shutil.copyfile(project / "docs" / "gpu.md", page)
    for _ in range(2):  # a page is written over and over
        assert program.main(["--render", str(tmp_path / "gpu_check.json"), str(page)]) == 0
    text = page.read_text()
    assert "tools/gpu_check.sh" in text
    assert "Not run yet" not in text
    for name in PARTS:
        assert text.count(f"### {name.capitalize()}\n") == 1
    assert "| students, bf16, channels last, compiled | images/s |" in text


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(check: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "u2net_crc32_fill.npz").write_bytes(b"no numbers")
    status, told = check("--only", "goldens", "steps", golden=tmp_path, assets=Path("none"))
    assert status == 1
    failed, done = told["parts"]["goldens"], told["parts"]["steps"]
    assert failed["status"] == "failed"
    assert failed["reason"]
    assert "no cgn_double_colored_mnist.npz in SKDCGN_GOLDEN" in failed["notes"]
    assert done["status"] == "done"
    assert done["rows"]


def test_a_part_without_its_files_is_skipped(check: Callable[..., Any], tmp_path: Path) -> None:
    status, told = check("--only", "goldens", golden=tmp_path / "none")
    assert status == 0
    assert told["parts"]["goldens"]["status"] == "skipped"
    assert "SKDCGN_GOLDEN" in told["parts"]["goldens"]["reason"]


def test_a_part_without_time_is_stopped(check: Callable[..., Any], tmp_path: Path) -> None:
    status, told = check("--only", "steps", "--budget-s", "1", golden=tmp_path)
    assert status == 0
    assert told["parts"]["steps"]["status"] == "stopped"
