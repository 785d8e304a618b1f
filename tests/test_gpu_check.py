"""The check of a GPU, in miniature on a CPU: every part is there, and one that fails is told."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PARTS = ["goldens", "steps", "throughput", "distillation", "ensemble", "training"]

pytest.importorskip("yaml", reason="the settings are YAML")


def check(project: Path, out: Path, *arguments: str, **surroundings: str) -> tuple[int, dict[str, Any]]:
    words = [sys.executable, "tools/gpu_check.py", "--miniature", "--out", str(out), *arguments]
    ran = subprocess.run(
        words, cwd=project, env=os.environ | {"OMP_NUM_THREADS": "1"} | surroundings, capture_output=True, text=True
    )
    assert (out / "gpu_check.json").is_file(), ran.stderr
    return ran.returncode, json.loads((out / "gpu_check.json").read_text())


@pytest.mark.slow
def test_every_part_has_finite_figures_and_a_table(project: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("pytorch_pretrained_biggan") is None:
        pytest.skip("the ImageNet teacher needs the extra 'imagenet'")
    status, told = check(project, tmp_path)
    assert status == 0
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
    words = [sys.executable, "tools/gpu_check.py", "--render", str(tmp_path / "gpu_check.json"), str(page)]
    for _ in range(2):  # a page is written over and over
        subprocess.run(words, cwd=project, check=True)
    text = page.read_text()
    assert "tools/gpu_check.sh" in text
    assert "Not run yet" not in text
    for name in PARTS:
        assert text.count(f"### {name.capitalize()}\n") == 1
    assert "| students, bf16, channels last, compiled | images/s |" in text


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(project: Path, tmp_path: Path) -> None:
    (tmp_path / "u2net_crc32_fill.npz").write_bytes(b"no numbers")
    status, told = check(
        project, tmp_path / "out", "--only", "goldens", "steps", SKDCGN_GOLDEN=str(tmp_path), SKDCGN_ASSETS="none"
    )
    assert status == 1
    failed, done = told["parts"]["goldens"], told["parts"]["steps"]
    assert failed["status"] == "failed"
    assert failed["reason"]
    assert "no cgn_double_colored_mnist.npz in SKDCGN_GOLDEN" in failed["notes"]
    assert done["status"] == "done"
    assert done["rows"]


def test_a_part_without_its_files_is_skipped(project: Path, tmp_path: Path) -> None:
    status, told = check(project, tmp_path, "--only", "goldens", SKDCGN_GOLDEN=str(tmp_path / "none"))
    assert status == 0
    assert told["parts"]["goldens"]["status"] == "skipped"
    assert "SKDCGN_GOLDEN" in told["parts"]["goldens"]["reason"]


def test_a_part_without_time_is_stopped(project: Path, tmp_path: Path) -> None:
    status, told = check(project, tmp_path, "--only", "steps", "--budget-s", "1")
    assert status == 0
    assert told["parts"]["steps"]["status"] == "stopped"
