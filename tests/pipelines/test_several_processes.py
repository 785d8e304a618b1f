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
from click.testing import CliRunner

from pipelines import running
from pipelines.running import Finished, Place, artifacts_in, content_of
from skdcgn_pipeline.distil_parallel import distil

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
BY_RAY = "--params=engine.name=ray,engine.workers=2"


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


def test_a_misspelt_mechanism_is_refused() -> None:
    told = CliRunner().invoke(distil, ["shapes"])
    assert told.exit_code != 0
    assert "Did you mean 'shape'?" in told.output
    assert isinstance(told.exception, SystemExit)  # so that no traceback is shown


def test_two_processes_make_the_student_that_one_makes(
    finished: tuple[Place, Finished],
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launch: Callable[[list[str]], None],
) -> None:
    together, alone = place, finished[0]
    before = len(together.runs())
    launch(TORCHRUN)
    status, output = together.command("shape")

    assert status == 0, output
    assert len(together.runs()) == before + 1
    (identity,) = artifacts_in(together.store("student"))
    assert identity in artifacts_in(alone.store("student"))
    histories = [
        json.loads((each.store("student") / identity / "history.json").read_text()) for each in (together, alone)
    ]
    for ours, theirs in zip(*histories, strict=True):
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
