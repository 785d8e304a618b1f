"""Processes of Ray Train: a lost one is replaced and all go on, a stop reaches all, errors are told at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipelines.running import content_of
from ray_cluster import two_nodes  # noqa: F401  (a fixture)
from ray_group import fail_alone, train_as_launched, train_until_stopped, train_with_a_death
from skdcgn_pipeline.runtime import ray_train, recording
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError, UnitFailedError, UserError
from skdcgn_pipeline.runtime.ray_engine import RayEngine
from skdcgn_pipeline.runtime.ray_train import call_together, check_gpus, check_room
from tiny import TinyTeacher, draw_samples
from two_processes import CPU, launch


@pytest.fixture
def engine(two_nodes: str) -> Iterator[RayEngine]:  # noqa: F811
    own = RayEngine(2, two_nodes)
    yield own
    own.close()


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return draw_samples(tmp_path / "samples", TinyTeacher(), {"name": "tiny"}, 10, 11, 0, CPU).artifact.directory


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_the_bits_are_those_of_processes_started_otherwise(
    engine: RayEngine, samples: Path, tmp_path: Path
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    killed.mkdir()
    launch(train_as_launched, samples, undisturbed)
    heard: list[int] = []
    with recording.listening(lambda training, step, losses: heard.append(step)):
        call_together(engine, partial(train_with_a_death, samples, killed), tmp_path)
    assert (killed / "died").exists()
    own = content_of(killed / "student")
    assert own == content_of(undisturbed / "student")
    assert own
    assert heard == sorted(set(heard))
    assert heard[-1] == 5
    assert not list(tmp_path.glob("ray_train_*"))


@pytest.mark.slow
def test_a_stop_reaches_all_processes(
    engine: RayEngine, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_train, "stop_requested", lambda: any(tmp_path.glob("at_work_*")))
    with pytest.raises(InterruptedRunError, match=r"shape student: stopped at [\d,]+ of 100,000 steps"):
        call_together(engine, partial(train_until_stopped, samples, tmp_path), tmp_path)
    assert list(tmp_path.glob("student/*.partial/scratch/checkpoint.pt"))


@pytest.mark.slow
def test_what_a_user_can_act_on_ends_all_at_once(engine: RayEngine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rank: expected 0, got 1\. Stay alone\."):
        call_together(engine, fail_alone, tmp_path)


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
