"""`distil_parallel` in the processes that torchrun starts: one leads and writes, all train."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from pipelines import running
from pipelines.running import Place, artifacts_in

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def student_of(place: Place) -> tuple[str, list[dict[str, float]]]:
    """Return the identity and the losses of the only student."""
    (identity,) = artifacts_in(place.store("student"))
    return identity, json.loads((place.store("student") / identity / "history.json").read_text())


def test_two_processes_make_the_student_that_one_makes(place: Place, tmp_path: Any, monkeypatch: Any) -> None:
    together = Place(tmp_path / "together" / "data", place.tracking_uri)
    place.run(namespaces=["shape"])
    before = len(place.runs())
    popen = subprocess.Popen

    def launch(command: list[str], **options: Any) -> subprocess.Popen[str]:
        assert command[1:4] == ["-m", "kedro", "run"]
        return popen([*TORCHRUN, "skdcgn_pipeline.distil_parallel", *command[4:]], **options)

    monkeypatch.setattr(running.subprocess, "Popen", launch)
    status, output = together.command("shape")
    refused, message = together.command("shapes")

    assert status == 0, output
    assert refused != 0
    assert "Did you mean 'shape'?" in message
    assert len(together.runs()) == before + 1
    identity, history = student_of(together)
    expected_identity, expected = student_of(place)
    assert identity == expected_identity
    for ours, theirs in zip(history, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    assert output.count("shape student: 6 steps") == 1
    # What follows finds it done.
    monkeypatch.undo()
    together.run(namespaces=["shape"])
    assert artifacts_in(together.store("student")) == {identity}
