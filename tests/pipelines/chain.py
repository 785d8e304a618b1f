"""One MLflow database and one finished run for all tests that look at a run.

A plugin of the tests rather than a conftest, so that other rooms share the same run; what knows of Kedro
is imported only by tests that ask for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from pipelines.running import Finished, Place

TIMING = {"skdcgn_pipeline.metrics.cost.NUM_REPEATS": 1, "skdcgn_pipeline.metrics.cost.SECONDS_PER_REPEAT": 0.01}


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the test session's MLflow database."""
    from pipelines.running import shared_tracking_uri

    uri = shared_tracking_uri(tmp_path_factory.getbasetemp())
    Path(uri.removeprefix("sqlite:///")).parent.mkdir(exist_ok=True)
    return uri


@pytest.fixture
def brief_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure rates for a moment only."""
    for name, value in TIMING.items():
        monkeypatch.setattr(name, value)


@pytest.fixture
def place(tmp_path: Path, tracking_uri: str, brief_timing: None) -> Place:
    """A place where nothing has been run yet."""
    from pipelines.running import Place

    return Place(tmp_path / "data", tracking_uri)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tracking_uri: str) -> tuple[Place, Finished]:
    """A place where the whole chain has been run once; never changed, see `finished_place`."""
    from pipelines.running import Place

    place = Place(tmp_path_factory.mktemp("finished") / "data", tracking_uri)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TIMING.items():
            patch.setattr(name, value)
        torch.set_num_threads(1)
        return place, place.run()


@pytest.fixture
def copy_of_finished(finished: tuple[Place, Finished], tmp_path: Path, brief_timing: None) -> Callable[[str], Place]:
    """Give copies of the place where the whole chain has been run, for tests that change it."""

    from pipelines.running import Place

    def copy(name: str) -> Place:
        source, _ = finished
        shutil.copytree(source.data, tmp_path / name / "data")
        return Place(tmp_path / name / "data", source.tracking_uri)

    return copy
