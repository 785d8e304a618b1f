"""`distil_parallel` in the processes that torchrun or Ray Train starts: one leads and writes, all train."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import running
from pipelines.running import Place, artifacts_in, content_of

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
BY_RAY = "--params=engine.name=ray,engine.workers=2"


def student_of(place: Place) -> tuple[str, list[dict[str, float]]]:
    """Return the identity and the losses of the only student."""
    (identity,) = artifacts_in(place.store("student"))
    return identity, json.loads((place.store("student") / identity / "history.json").read_text())


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Let a place's commands be `distil_parallel`, behind what launches it."""
    popen = subprocess.Popen

    def launch_by(launcher: list[str]) -> None:
        def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
            assert command[1:4] == ["-m", "kedro", "run"]
            return popen([*launcher, "skdcgn_pipeline.distil_parallel", *command[4:]], **options)

        monkeypatch.setattr(running.subprocess, "Popen", start)

    return launch_by


def test_a_misspelt_mechanism_is_refused(place: Place, launch: Callable[[list[str]], None]) -> None:
    launch([sys.executable, "-m"])
    status, message = place.command("shapes")
    assert status != 0
    assert "Did you mean 'shape'?" in message
    assert "Traceback" not in message


def test_two_processes_make_the_student_that_one_makes(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: Callable[[list[str]], None]
) -> None:
    together = Place(tmp_path / "together" / "data", place.tracking_uri)
    place.run(namespaces=["shape"])
    before = len(place.runs())
    launch(TORCHRUN)
    status, output = together.command("shape")

    assert status == 0, output
    assert len(together.runs()) == before + 1
    identity, history = student_of(together)
    expected_identity, expected = student_of(place)
    assert identity == expected_identity
    for ours, theirs in zip(history, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    assert output.count("shape student: 6 steps") == 1
    # Ray Train makes the same bits.
    if importlib.util.find_spec("ray"):
        by_ray = Place(tmp_path / "ray" / "data", place.tracking_uri)
        launch([sys.executable, "-m"])
        status, output = by_ray.command("shape", BY_RAY)
        assert status == 0, output
        assert content_of(by_ray.store("student")) == content_of(together.store("student"))
        assert f"shape: {by_ray.store('student')}" in output
        assert "RayTrainWorker" not in output
        assert not list(by_ray.data.glob("ray_train_*"))
    # What follows finds it done.
    monkeypatch.undo()
    together.run(namespaces=["shape"])
    assert artifacts_in(together.store("student")) == {identity}
