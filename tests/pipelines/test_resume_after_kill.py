"""A run that is killed goes on where it was, and ends in the same bytes as one that was not."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
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

CHECKPOINT, SHARDS = "scratch/checkpoint.pt", "shard-*.parquet"


# No pictures, and no rates of students, which take their time in a process of its own.
CLASSIFIED = (
    *("teacher_counterfactuals", "student_counterfactuals"),
    *("accuracy", "accuracy_csv", "accuracy_summary"),
)
STUDIED = ("ablation", "ablation_csv", "ablation_summary", "ablation_confusion")


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


def times_of(files: Iterable[Path]) -> set[tuple[str, int]]:
    """Return name and time of writing of files, without those that vanish."""
    times = set()
    for path in files:
        with suppress(FileNotFoundError):
            times.add((path.name, path.stat().st_mtime_ns))
    return times


def tables_of(place: Place, *names: str) -> dict[str, bytes]:
    return {name: place.saved(f"07_tables/*/{name}").read_bytes() for name in names}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tracking_uri: str) -> Callable[[str], Place]:
    return lambda name: Place(tmp_path_factory.mktemp(name) / "data", tracking_uri)


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


def asked_to_stop(place: Place, asked: signal.Signals) -> str:
    """Ask a distillation to stop at its next checkpoint; returns what it printed."""
    store = place.store("student")
    known = {run.info.run_id for run in place.runs()}
    times = times_of(partial_files(store, CHECKPOINT))

    status, output = place.stop_when(
        lambda: bool(times_of(partial_files(store, CHECKPOINT)) - times),
        *("--namespaces", "shape", *flat(DISTILL)),
        by=asked,
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
    (run,) = [run for run in place.runs() if run.info.run_id not in known]
    assert run.info.status == "KILLED"
    return output


def test_distillation_goes_on_after_a_kill_and_says_how_where_it_is_asked_to_stop(
    killed: Place, whole_student: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for asked in (signal.SIGINT, signal.SIGTERM):
        assert "Continuing from step" in asked_to_stop(killed, asked)

    with caplog.at_level(logging.INFO):
        killed.run(params=nested(DISTILL), namespaces=["shape"])

    assert "Continuing from step" in caplog.text
    assert {"student.safetensors", "history.json"} <= {Path(name).name for name in whole_student}
    assert content_of(killed.store("student")) == whole_student


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


# --- sampling, composing and classification ---

CHAIN = {
    "sample.num_images_per_class": 200,
    "sample.rows_per_shard": 50,
    "compose.num_images": 3000,
    "compose.rows_per_shard": 50,
    "classify.num_seeds": 1,
    "classify.fit.num_images": 480,
    "classify.fit.checkpoint_every_steps": 5,
}
NUM_CLASSIFIERS = 3  # of originals, teacher and students


def test_a_chain_goes_on_after_a_kill_in_every_stage(copy_of_finished: Callable[[str], Place]) -> None:
    whole, killed = copy_of_finished("whole"), copy_of_finished("killed")
    whole.run(params=nested(CHAIN), pipeline_names=["classify"], to_outputs=CLASSIFIED)
    samples, sets, classifiers = (killed.store(kind) for kind in ("sample", "counterfactual", "classifier"))
    before = artifacts_in(classifiers)

    def kill_when(reached: Callable[[], bool]) -> None:
        command = ["--pipelines", "classify", "--to-outputs", ",".join(CLASSIFIED), *flat(CHAIN)]
        status, _ = killed.stop_when(reached, *command)
        assert status == -signal.SIGKILL

    kill_when(lambda: any("shard-00002" in path.name for path in partial_files(samples, SHARDS)))
    drawn = times_of(partial_files(samples, SHARDS))
    assert 2 <= len(drawn) < 2000 // 50, "the kill came when everything was drawn"

    kill_when(lambda: len(partial_files(sets, SHARDS)) > 2)
    assert len(drawn & times_of(samples.glob("*/*.parquet"))) >= len(drawn) - 1, (
        "shards that were finished were drawn again"
    )

    def one_more() -> bool:
        """Tell whether one more classifier is finished and the next one has a checkpoint."""
        return bool(artifacts_in(classifiers) - before and partial_files(classifiers, CHECKPOINT))

    kill_when(one_more)
    finished = artifacts_in(classifiers) - before
    assert 0 < len(finished) < NUM_CLASSIFIERS
    times = {name: state_of(classifiers / name) for name in finished}

    killed.run(params=nested(CHAIN), pipeline_names=["classify"], to_outputs=CLASSIFIED)

    assert {name: state_of(classifiers / name) for name in finished} == times
    for kind in ("sample", "counterfactual", "classifier", "accuracy"):
        assert content_of(killed.store(kind)) == content_of(whole.store(kind))
    names = ("accuracy.csv", "accuracy.parquet", "accuracy_summary.parquet")
    assert tables_of(killed, *names) == tables_of(whole, *names)


# --- a study ---

STUDY = {
    "ablation.study": "counts",
    "ablation.num_seeds": 3,
    "ablation.fit.num_images": 400,
    "ablation.fit.checkpoint_every_steps": 5,
}


def of(workers: int) -> dict[str, object]:
    """Return the settings of so many processes."""
    return {"engine.name": "processes", "engine.workers": workers}


NUM_CELLS = 3 * 3  # three seeds
STUDY_TABLES = ("ablation.csv", "ablation.parquet", "ablation_summary.parquet", "ablation_confusion.parquet")


@pytest.fixture(scope="module")
def whole_study(finished: tuple[Place, Finished], tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place where the study was run without a stop, by one worker."""
    folder = tmp_path_factory.mktemp("whole-study")
    shutil.copytree(finished[0].data, folder / "data")
    place = Place(folder / "data", tracking_uri)
    place.run(params=nested(STUDY), pipeline_names=["ablation"], to_outputs=STUDIED)
    return place


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look for processes")
def test_a_study_goes_on_after_kills_and_says_how_where_it_is_asked_to_stop(
    copy_of_finished: Callable[[str], Place], whole_study: Place
) -> None:
    place = copy_of_finished("killed")
    cells, store = place.store("cell"), place.store("classifier")
    times: dict[Path, dict[str, int]] = {}

    def stopped(workers: int, by: signal.Signals) -> tuple[int, str]:
        """Stop a run as soon as it has done a cell more and all workers are at another."""
        before = artifacts_in(cells)

        def reached() -> bool:
            at_work = len(partial_files(store, CHECKPOINT)) == workers
            return bool(artifacts_in(cells) - before) and at_work and len(place.processes()) >= workers

        command = ["--pipelines", "ablation", "--to-outputs", ",".join(STUDIED), *flat(STUDY | of(workers))]
        told = place.stop_when(reached, *command, by=by)
        place.wait_until_alone()
        assert len(before) < len(artifacts_in(cells)) < NUM_CELLS
        assert not list(place.data.glob("07_tables/*/ablation.parquet"))
        assert_kept()
        times.update({kind / name: state_of(kind / name) for kind in (cells, store) for name in artifacts_in(kind)})
        return told

    def assert_kept() -> None:
        assert {folder: state_of(folder) for folder in times} == times, "something finished was repeated"

    status, _ = stopped(2, signal.SIGKILL)
    assert status == -signal.SIGKILL

    status, output = stopped(2, signal.SIGTERM)
    assert status == 130, output
    message = " ".join(output[output.index("Error: ") :].split())
    assert "everything so far is saved" in message
    assert "Repeat the same command to go on" in message
    assert "Traceback" not in message

    status, _ = stopped(1, signal.SIGKILL)
    assert status == -signal.SIGKILL

    place.run(params=nested(STUDY | of(2)), pipeline_names=["ablation"], to_outputs=STUDIED)

    assert_kept()
    for kind in ("classifier", "cell"):
        assert content_of(place.store(kind)) == content_of(whole_study.store(kind))
    assert tables_of(place, *STUDY_TABLES) == tables_of(whole_study, *STUDY_TABLES)
