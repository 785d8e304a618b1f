"""Compiled loops are kept for later processes, by their sources; nothing depends on what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from skdcgn_pipeline.kernels import compiling

CODE = """
import torch
from skdcgn_pipeline.kernels import loops
from skdcgn_pipeline.kernels.taking import take_decoded
taken = take_decoded(torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), torch.tensor([1]), 0.5, -1)
print(taken.sum().item(), len(loops.take.stats.cache_hits), len(loops.take.stats.cache_misses))
"""


def take_in_a_process(cache: Path) -> list[float]:
    """Return the sum of an image, and how often its loop was found and was not."""
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [float(number) for number in run.stdout.split()]


def test_a_second_process_finds_what_the_first_has_compiled_unless_it_is_damaged(tmp_path):
    total = sum(range(12, 24)) * 0.5 - 12
    assert take_in_a_process(tmp_path) == [total, 0, 1]
    assert take_in_a_process(tmp_path) == [total, 1, 0]
    for kept in tmp_path.rglob("loops.take-*.nb*"):
        kept.write_bytes(kept.read_bytes()[:20])
    assert take_in_a_process(tmp_path) == [total, 0, 1]


def test_other_sources_have_another_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "compiling.py"))
    folders = set()
    for source in ("LANES = 8", "LANES = 16"):
        (tmp_path / "lanes.py").write_text(source)
        folders.add(compiling.cache_folder())
    assert len(folders) == 2


def test_loops_are_compiled_where_nothing_can_be_kept(monkeypatch):
    def refuse(function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(compiling, "_Cache", refuse)
    assert compiling.compiled()(lambda a, b: a + b)(2, 3) == 5


def test_a_function_made_inside_another_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling.config, "CACHE_DIR", str(tmp_path))
    number = 2
    assert compiling.compiled()(lambda a: a + number)(3) == 5
    assert not list(tmp_path.rglob("*.nb*"))
    assert str(tmp_path) == compiling.config.CACHE_DIR
