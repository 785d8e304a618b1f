"""Units in workers of Ray: a lost worker is replaced, a stop reaches workers, losses come back, each once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_cluster import open_dying, open_orphaned, open_waiting, two_nodes  # noqa: F401  (a fixture)
from skdcgn_pipeline.parameters import EngineSettings
from skdcgn_pipeline.runtime import ray_engine, recording
from skdcgn_pipeline.runtime.engine import choose_engine
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.ray_engine import Heard, RayEngine
from tiny import open_halving


@pytest.fixture
def engine(two_nodes: str) -> Iterator[RayEngine]:  # noqa: F811
    own = RayEngine(2, two_nodes)
    yield own
    own.close()


@pytest.mark.slow
def test_units_come_back_whatever_becomes_of_others_and_of_workers(engine: RayEngine, tmp_path: Path) -> None:
    outcomes = dict(engine.outcomes(open_halving, range(4)))
    assert [outcomes[number].error for number in range(4)] == ["", "ValueError: 1 is odd", "", "ValueError: 3 is odd"]
    assert os.getpid() not in {outcomes[number].result[2] for number in (0, 2)}
    assert list(engine.outcomes(open_halving, [])) == []

    heard: list[tuple[Any, ...]] = []
    with recording.listening(lambda *told: heard.append(told)):
        outcomes = dict(engine.outcomes(partial(open_dying, str(tmp_path)), range(3)))
    assert (tmp_path / "tried").exists()
    assert {number: outcome.result for number, outcome in outcomes.items()} == {
        number: (number, torch.get_num_threads()) for number in range(3)
    }
    assert sorted(heard) == [(f"unit {number}", 1, {"total": float(number)}) for number in range(3)]


@pytest.mark.slow
def test_a_ray_that_ends_is_told_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason='needs Ray: pip install "skdcgn_pipeline[ray]"')
    monkeypatch.setattr(ray_engine, "ANSWER_SECONDS", 0.5)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # as the cluster of two nodes, which this process knows, too
    with closing(RayEngine(1)) as engine, pytest.raises(SettingError, match="expected a Ray that lives as long as"):
        list(engine.outcomes(open_orphaned, range(2)))


@pytest.mark.slow
def test_a_stop_reaches_workers(engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "stop_requested", lambda: any(tmp_path.glob("at_work_*")))
    outcomes = engine.outcomes(partial(open_waiting, str(tmp_path)), range(5))
    with closing(outcomes), pytest.raises(InterruptedRunError, match=r"unit \d: stopped at 0 of 2 steps"):
        list(outcomes)
    assert 0 < len(list(tmp_path.glob("at_work_*"))) <= 2


def test_losses_that_are_told_twice_are_recorded_once() -> None:
    heard: list[tuple[Any, ...]] = []
    own = Heard()
    with recording.listening(lambda *told: heard.append(told)):
        own.tell([("shape", 2, {"total": 1.0}), ("shape", 4, {"total": 0.5})])
        own.tell([("shape", 2, {"total": 1.0}), ("shape", 4, {"total": 0.5}), ("shape", 6, {"total": 0.2})])
    assert [told[1] for told in heard] == [2, 4, 6]


def test_trainings_at_work_are_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(ray_engine, "REPORT_SECONDS", 0.0)
    own = Heard()
    with caplog.at_level("INFO"):
        own.tell([("shape", 2, {}), ("texture", 2, {})])
        own.tell([("texture", 2000, {})])
    assert caplog.messages == ["shape: step 2, texture: step 2", "texture: step 2,000"]


def test_without_ray_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"engine\.name: .*pip install \"skdcgn_pipeline\[ray\]\""):
        choose_engine(EngineSettings(name="ray"))


def test_settings_become_an_engine() -> None:
    pytest.importorskip("ray", reason='needs Ray: pip install "skdcgn_pipeline[ray]"')
    settings = EngineSettings(name="ray", workers=3, address="auto", cpus_per_unit=0.5, gpus_per_unit=0.25)
    assert choose_engine(settings) == RayEngine(3, "auto", 0.5, 0.25)


@pytest.mark.parametrize("workers", [0, 257])
def test_impossible_numbers_of_workers_are_refused(workers: int) -> None:
    with pytest.raises(ValueError, match=r"workers\n  Input should be (greater than 0|less than or equal to 256)"):
        EngineSettings(workers=workers)


@pytest.mark.parametrize("settings", [{"address": "auto"}, {"cpus_per_unit": 2}, {"gpus_per_unit": 0.5}])
def test_what_ray_alone_reads_is_refused_elsewhere(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"belongs to engine\.name 'ray'"):
        EngineSettings(name="processes", **settings)


def test_other_engines_import_nothing_of_ray() -> None:
    code = (
        "import sys; from skdcgn_pipeline.parameters import EngineSettings; "
        "import skdcgn_pipeline.pipelines.distill.nodes;"
        "from skdcgn_pipeline.runtime.engine import choose_engine; choose_engine(EngineSettings());"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'ray']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
