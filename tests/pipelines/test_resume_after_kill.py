"""A run that is killed goes on where it was, and ends in the same bytes as one that was not."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.running import (
    Finished,
    Place,
    artifacts_in,
    content_of,
    partial_files,
    state_of,
)

pytestmark = pytest.mark.slow

CHECKPOINT = "scratch/checkpoint.pt"


def flat(params: dict[str, object]) -> list[str]:
    """Return settings as the command line takes them."""
    return ["--params", ",".join(f"{name}={value}" for name, value in params.items())]


def nested(params: dict[str, object]) -> dict[str, object]:
    """Return settings as a session takes them."""
    tree: dict[str, object] = {}
    for name, value in params.items():
        *parents, leaf = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})  # type: ignore[assignment]
        branch[leaf] = value
    return tree


def tables_of(place: Place, *names: str) -> dict[str, bytes]:
    return {name: place.saved(f"07_tables/*/{name}").read_bytes() for name in names}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tracking_uri: str) -> Callable[[str], Place]:
    return lambda name: Place(tmp_path_factory.mktemp(name) / "data", tracking_uri)


# --- sampling ---

SAMPLE = {"sample.num_images_per_class": 200, "sample.rows_per_shard": 50}


def test_sampling_goes_on_after_a_kill(places: Callable[[str], Place]) -> None:
    whole, killed = places("whole"), places("killed")
    whole.run(params=nested(SAMPLE), pipeline_names=["sample"])
    store = killed.store("sample")

    status, _ = killed.stop_when(
        lambda: any("shard-00002" in p.name for p in partial_files(store, "shard-*.parquet")),
        *("--pipelines", "sample", *flat(SAMPLE)),
    )
    assert status == -signal.SIGKILL
    kept = {path.name: path.stat().st_mtime_ns for path in partial_files(store, "shard-*.parquet")}
    assert 2 <= len(kept) < 2000 // 50, "the kill came when everything was drawn"

    killed.run(params=nested(SAMPLE), pipeline_names=["sample"])

    assert content_of(store) == content_of(whole.store("sample"))
    again = {Path(name).name: time for name, time in state_of(store).items() if kept.get(Path(name).name) == time}
    assert len(again) >= len(kept) - 1, "shards that were finished were drawn again"


# --- distillation ---

DISTILL = {
    "shape.distill.num_steps": 150,
    "shape.distill.checkpoint_every_steps": 5,
    "shape.distill.log_every_steps": 2,
    "shape.distill.batch_size": 32,
}


@pytest.fixture(scope="module")
def whole_student(places: Callable[[str], Place]) -> dict[str, str]:
    """The files of the student that is distilled without a stop."""
    place = places("whole-student")
    place.run(params=nested(DISTILL), namespaces=["shape"])
    return content_of(place.store("student"))


@pytest.fixture(scope="module")
def killed_student(places: Callable[[str], Place]) -> Place:
    """A place where the distillation was killed; only looked at."""
    place = places("killed-student")
    store = place.store("student")
    status, _ = place.stop_when(lambda: bool(partial_files(store, CHECKPOINT)), "--namespaces", "shape", *flat(DISTILL))
    assert status == -signal.SIGKILL
    assert artifacts_in(store) == set()
    return place


@pytest.fixture
def killed(killed_student: Place, tmp_path: Path) -> Place:
    """A copy of the place where the distillation was killed."""
    shutil.copytree(killed_student.data, tmp_path / "data")
    return replace(killed_student, data=tmp_path / "data")


def test_distillation_goes_on_after_a_kill(
    killed: Place, whole_student: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    store = killed.store("student")

    with caplog.at_level(logging.INFO):
        killed.run(params=nested(DISTILL), namespaces=["shape"])

    assert "Continuing from step" in caplog.text
    assert {"student.safetensors", "history.json"} <= {Path(name).name for name in whole_student}
    assert content_of(store) == whole_student


def test_distillation_starts_over_from_an_unreadable_checkpoint(
    killed: Place, whole_student: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """A half-written file cannot come from a kill, but from a full disk or a copy."""
    store = killed.store("student")
    (checkpoint,) = partial_files(store, CHECKPOINT)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])

    killed.run(params=nested(DISTILL), namespaces=["shape"])

    assert "starts over" in caplog.text
    assert content_of(store) == whole_student


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
def test_a_run_that_is_asked_to_stop_says_how_to_go_on(
    places: Callable[[str], Place],
    whole_student: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    asked: signal.Signals,
) -> None:
    stopped = places(asked.name)
    store = stopped.store("student")
    known = {run.info.run_id for run in stopped.runs()}

    status, output = stopped.stop_when(
        lambda: bool(partial_files(store, CHECKPOINT)), "--namespaces", "shape", *flat(DISTILL), by=asked
    )

    assert status == 130, output
    assert "--from-nodes" not in output
    assert f"{asked.name}: saving the state" in output
    message = " ".join(output[output.index("Error: ") :].split())
    assert "shape student: stopped at" in message
    assert "Repeat the same command to go on" in message
    assert "Traceback" not in output[output.index("Error: ") :]
    assert artifacts_in(store) == set()
    assert partial_files(store, CHECKPOINT)
    (run,) = [run for run in stopped.runs() if run.info.run_id not in known]
    assert run.info.status == "KILLED"

    with caplog.at_level(logging.INFO):
        stopped.run(params=nested(DISTILL), namespaces=["shape"])

    assert "Continuing from step" in caplog.text
    assert content_of(store) == whole_student


# --- classification and ablation ---


def a_classifier_more(place: Place) -> Callable[[], bool]:
    """Tell when one more classifier is finished and the next one has a checkpoint."""
    store = place.store("classifier")
    before = artifacts_in(store)
    return lambda: bool(artifacts_in(store) - before and partial_files(store, CHECKPOINT))


CLASSIFY = {"classify.num_seeds": 1, "classify.fit.num_images": 480, "classify.fit.checkpoint_every_steps": 5}


def test_classification_goes_on_after_a_kill(copy_of_finished: Callable[[str], Place]) -> None:
    whole, killed = copy_of_finished("whole"), copy_of_finished("killed")
    whole.run(params=nested(CLASSIFY), pipeline_names=["classify"])
    before = artifacts_in(killed.store("classifier"))

    status, _ = killed.stop_when(a_classifier_more(killed), "--pipelines", "classify", *flat(CLASSIFY))
    assert status == -signal.SIGKILL
    finished = artifacts_in(killed.store("classifier")) - before
    assert 0 < len(finished) < 3  # of originals, teacher and students
    times = {name: state_of(killed.store("classifier") / name) for name in finished}

    killed.run(params=nested(CLASSIFY), pipeline_names=["classify"])

    assert {name: state_of(killed.store("classifier") / name) for name in finished} == times
    for kind in ("classifier", "accuracy"):
        assert content_of(killed.store(kind)) == content_of(whole.store(kind))
    names = ("accuracy.csv", "accuracy.parquet", "accuracy_summary.parquet")
    assert tables_of(killed, *names) == tables_of(whole, *names)


STUDY = {
    "ablation.study": "counts",
    "ablation.fit.num_images": 400,
    "ablation.fit.checkpoint_every_steps": 5,
}


def by(workers: int) -> dict[str, object]:
    """Return the settings of so many processes."""
    return {"engine.name": "processes", "engine.workers": workers}


NUM_CELLS = 2 * 3  # two seeds
STUDY_TABLES = ("ablation.csv", "ablation.parquet", "ablation_summary.parquet", "ablation_confusion.parquet")


@pytest.fixture(scope="module")
def whole_study(finished: tuple[Place, Finished], tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place where the study was run without a stop, by one worker."""
    folder = tmp_path_factory.mktemp("whole-study")
    shutil.copytree(finished[0].data, folder / "data")
    place = Place(folder / "data", tracking_uri)
    place.run(params=nested(STUDY), pipeline_names=["ablation"])
    return place


def is_the_whole_study(place: Place, whole: Place) -> None:
    for kind in ("classifier", "cell"):
        assert content_of(place.store(kind)) == content_of(whole.store(kind))
    assert tables_of(place, *STUDY_TABLES) == tables_of(whole, *STUDY_TABLES)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look for processes")
def test_a_study_goes_on_after_a_kill(
    copy_of_finished: Callable[[str], Place], whole_study: Place, workers: int
) -> None:
    killed = copy_of_finished("killed")
    command = ["--pipelines", "ablation", *flat(STUDY | by(workers))]
    cells, store = killed.store("cell"), killed.store("classifier")

    def reached() -> bool:
        """Tell whether a cell is done and all workers are at another."""
        at_work = len(partial_files(store, CHECKPOINT)) == workers
        return bool(artifacts_in(cells)) and at_work and len(killed.processes()) >= workers

    status, _ = killed.stop_when(reached, *command)
    assert status == -signal.SIGKILL
    killed.wait_until_alone()
    done = artifacts_in(cells)
    assert 0 < len(done) < NUM_CELLS
    assert not list(killed.data.glob("07_tables/*/ablation.parquet"))
    classifiers = artifacts_in(store)
    times = {
        kind: {name: state_of(killed.store(kind) / name) for name in names}
        for kind, names in (("cell", done), ("classifier", classifiers))
    }

    killed.run(params=nested(STUDY | by(workers)), pipeline_names=["ablation"])

    for kind, own in times.items():
        assert {name: state_of(killed.store(kind) / name) for name in own} == own, "something finished was repeated"
    is_the_whole_study(killed, whole_study)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look for processes")
def test_a_study_that_is_asked_to_stop_says_how_to_go_on(
    copy_of_finished: Callable[[str], Place], whole_study: Place
) -> None:
    stopped = copy_of_finished("stopped")
    command = ["--pipelines", "ablation", *flat(STUDY | by(2))]

    status, output = stopped.stop_when(lambda: bool(artifacts_in(stopped.store("cell"))), *command, by=signal.SIGTERM)

    assert status == 130, output
    stopped.wait_until_alone()
    message = " ".join(output[output.index("Error: ") :].split())
    assert "everything so far is saved" in message
    assert "Repeat the same command to go on" in message
    assert "Traceback" not in message
    done = {name: state_of(stopped.store("cell") / name) for name in artifacts_in(stopped.store("cell"))}
    assert 0 < len(done) < NUM_CELLS

    stopped.run(params=nested(STUDY), pipeline_names=["ablation"])

    assert {name: state_of(stopped.store("cell") / name) for name in done} == done
    is_the_whole_study(stopped, whole_study)


def test_counterfactuals_go_on_after_a_kill(copy_of_finished: Callable[[str], Place]) -> None:
    params = {"compose.num_images": 3000, "compose.rows_per_shard": 50}
    whole, killed = copy_of_finished("whole"), copy_of_finished("killed")
    for place in (whole, killed):
        shutil.rmtree(place.store("counterfactual"))
    whole.run(params=nested(params), pipeline_names=["compose"])
    store = killed.store("counterfactual")

    status, _ = killed.stop_when(
        lambda: len(partial_files(store, "shard-*.parquet")) > 2, "--pipelines", "compose", *flat(params)
    )
    assert status == -signal.SIGKILL

    killed.run(params=nested(params), pipeline_names=["compose"])

    assert content_of(store) == content_of(whole.store("counterfactual"))
