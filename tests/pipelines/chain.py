"""One finished run for all tests that look at a run, however many processes test, and a database for each process.

A plugin of the tests rather than a conftest, so that other rooms share the same run; what knows of Kedro
is imported only by tests that ask for it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from filelock import FileLock

if TYPE_CHECKING:
    from pipelines.running import Finished, Place
    from skdcgn_pipeline.mechanisms import CounterfactualGenerator
    from skdcgn_pipeline.students.trio import StudentCGN

TIMING = {"skdcgn_pipeline.metrics.cost.NUM_REPEATS": 1, "skdcgn_pipeline.metrics.cost.SECONDS_PER_REPEAT": 0.01}


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that test together."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def new_database(common: Path) -> Callable[[Path], str]:
    """Make MLflow databases: copies of an empty one, whose tables take seconds to make."""

    def copy(folder: Path) -> str:
        import mlflow

        empty = common / "empty.db"
        with FileLock(common / "empty.lock"):
            if not empty.exists():
                mlflow.MlflowClient(f"sqlite:///{common / 'being_made.db'}").search_experiments()
                (common / "being_made.db").rename(empty)
        folder.mkdir(parents=True)
        shutil.copy(empty, folder / "mlflow.db")
        return f"sqlite:///{folder / 'mlflow.db'}"

    return copy


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], str]) -> str:
    """The address of this process's MLflow database."""
    return new_database(tmp_path_factory.getbasetemp() / "mlflow")


@pytest.fixture
def brief_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure rates for a moment only."""
    for name, value in TIMING.items():
        monkeypatch.setattr(name, value)


@pytest.fixture(scope="module")
def one_program() -> Iterator[None]:
    """Benchmarks translate the same students for ONNX Runtime once, which takes seconds."""
    from skdcgn_pipeline.benchmark import networks

    translate, translated = networks.by_onnxruntime, {}

    def translate_once(students: StudentCGN) -> CounterfactualGenerator:
        weights = tuple(tensor.numpy().tobytes() for tensor in students.state_dict().values())
        key = (torch.get_num_threads(), repr(students.architectures), weights)
        if key not in translated:
            translated[key] = translate(students)
        return translated[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "by_onnxruntime", translate_once)
        yield


@pytest.fixture
def place(tmp_path: Path, tracking_uri: str, brief_timing: None) -> Place:
    """A place where nothing has been run yet."""
    from pipelines.running import Place

    return Place(tmp_path / "data", tracking_uri)


@pytest.fixture(scope="session")
def finished(common: Path, new_database: Callable[[Path], str]) -> tuple[Place, Finished]:
    """A place where the whole chain has been run once; only looked at, see `copy_of_finished`."""
    from pipelines.running import Finished, Place

    folder, told = common / "finished", common / "finished.json"
    place = Place(folder / "data", f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    with FileLock(common / "finished.lock"):
        if not told.exists():
            new_database(folder / "mlflow")
            with pytest.MonkeyPatch.context() as patch:
                for name, value in TIMING.items():
                    patch.setattr(name, value)
                torch.set_num_threads(1)
                run = place.run()
            told.write_text(json.dumps([run.session_id, run.left_active]))
    return place, Finished(*json.loads(told.read_text()))


@pytest.fixture
def copy_of_finished(
    finished: tuple[Place, Finished], tracking_uri: str, tmp_path: Path, brief_timing: None
) -> Callable[[str], Place]:
    """Give copies of the place where the whole chain has been run, for tests that change it."""

    from pipelines.running import Place

    def copy(name: str) -> Place:
        shutil.copytree(finished[0].data, tmp_path / name / "data")
        return Place(tmp_path / name / "data", tracking_uri)

    return copy
