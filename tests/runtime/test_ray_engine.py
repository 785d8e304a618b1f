"""Units in workers of Ray, and processes of Ray Train, in one cluster.

A lost one is replaced, a stop reaches all, losses come back, each once, and errors are told.
"""

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

from pipelines.running import artifacts_in, content_of
from ray_cluster import open_dying, open_orphaned, open_waiting, two_nodes  # noqa: F401  (a fixture)
from ray_group import train_until_stopped, train_with_a_death
from skdcgn_pipeline.parameters import EngineSettings
from skdcgn_pipeline.runtime import ray_engine, ray_train, recording
from skdcgn_pipeline.runtime.engine import choose_engine
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError, UnitFailedError, UserError
from skdcgn_pipeline.runtime.ray_engine import Heard, RayEngine
from skdcgn_pipeline.runtime.ray_train import call_together, check_gpus, check_room
from tiny import open_halving
from two_processes import SHORT, launched  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
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
def test_a_ray_that_ends_is_told_and_not_waited_for(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.close()  # a process is in one Ray at a time
    monkeypatch.setattr(ray_engine, "ANSWER_SECONDS", 0.5)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # as the cluster of two nodes, which this process knows, too
    with closing(RayEngine(1)) as own, pytest.raises(SettingError, match="expected a Ray that lives as long as"):
        list(own.outcomes(open_orphaned, range(2)))


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


# --- processes of Ray Train ---


@pytest.mark.slow
def test_a_killed_process_is_replaced_with_the_bits_of_processes_started_otherwise_and_what_a_user_can_act_on_ends_all(
    engine: RayEngine,
    launched: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    (samples, undisturbed), killed, heard = launched, tmp_path / "killed", list[int]()
    killed.mkdir()

    def note(training: str, step: int, losses: object) -> None:
        heard.append(step)
        if step == SHORT.num_steps:
            (killed / "heard").touch()

    with recording.listening(note), pytest.raises(UserError, match=r"rank: expected 0, got 1\. Stay alone\."):
        call_together(engine, partial(train_with_a_death, samples, killed), tmp_path)
    assert (killed / "died").exists()
    (identity,) = artifacts_in(killed / "student")
    own = content_of(killed / "student" / identity)
    assert own == content_of(undisturbed / "student" / identity)
    assert own
    assert heard == sorted(set(heard))
    assert heard[-1] == SHORT.num_steps
    assert not list(tmp_path.glob("ray_train_*"))


@pytest.mark.slow
def test_a_stop_reaches_all_processes(
    engine: RayEngine,
    launched: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_train, "stop_requested", lambda: any(tmp_path.glob("at_work_*")))
    with pytest.raises(InterruptedRunError, match=r"shape student: stopped at [\d,]+ of 100,000 steps"):
        call_together(engine, partial(train_until_stopped, launched[0], tmp_path), tmp_path)
    assert list(tmp_path.glob("student/*.partial/scratch/checkpoint.pt"))


@pytest.mark.slow
def test_other_errors_are_told_after_the_last_attempt(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def fit(self) -> None:
            raise ZeroDivisionError("nothing to divide by")

    attempts: list[str] = []
    monkeypatch.setattr(ray_train, "_trainer", lambda *given: attempts.append(given[-1]) or Failing())
    with pytest.raises(UnitFailedError, match=r"failed 6 times, the last time: ZeroDivisionError: nothing to divide"):
        call_together(engine, print, tmp_path)
    assert attempts == [f"attempt_{number}" for number in range(6)]


@pytest.mark.parametrize("gpus", [0.5, 2])
def test_processes_share_no_gpu(gpus: float) -> None:
    with pytest.raises(SettingError, match=rf"engine\.gpus_per_unit: expected 0 or 1 .*, got {gpus:g}\. Use one"):
        check_gpus(RayEngine(2, gpus_per_unit=gpus))
    check_gpus(RayEngine(2, gpus_per_unit=1))


@pytest.mark.parametrize(("resources", "room"), [({"CPU": 8.0, "GPU": 1.0}, 1), ({"CPU": 3.9, "GPU": 4.0}, 1), ({}, 0)])
def test_more_processes_than_there_is_room_for_are_refused(resources: dict[str, float], room: int) -> None:
    engine = RayEngine(2, cpus_per_unit=2.0, gpus_per_unit=1.0)
    with pytest.raises(SettingError, match=rf"engine\.workers: expected at most {room}, .*, got 2\. Use fewer"):
        check_room(engine, resources)
    check_room(engine, {"CPU": 4.0, "GPU": 2.0})
    check_room(RayEngine(2), {"CPU": 2.0})
