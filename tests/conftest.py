"""What all tests share: one thread, no left-over request to stop, a tiny teacher, the shared files."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.samples.drawing import SampleShards
from tiny import TinyTeacher, draw_samples

# Workers of Ray would otherwise wait for the tests of the other process, which computes at a better priority.
os.environ.setdefault("RAY_worker_niceness", "0")
pytest_plugins = ["pipelines.chain"]

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


def pytest_xdist_auto_num_workers() -> int:
    """Start a process more than there are cores: a quarter of the time they wait, for processes that they start."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that no process is left alone with one at the end.

    The first file makes the run that many share; those that do without come next, so that nobody waits for it.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    sharing = {item.path for item in items if "finished" in getattr(item, "fixturenames", ())}
    first = next((item.path for item in items if item.path in slow & sharing), None)
    items.sort(key=lambda item: (item.path not in slow, item.path != first, item.path in sharing))


@pytest.fixture(autouse=True)
def quiet_surroundings() -> Iterator[None]:
    """Run every test on one thread and let no request to stop outlive it."""
    torch.set_num_threads(1)
    progress.clear_stop()
    yield
    progress.clear_stop()


@pytest.fixture(scope="session", autouse=True)
def untouched_viz(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give back what Kedro-Viz knows of the user's last run: every run of the project, a test's too, writes over it."""
    viz, kept = PROJECT / ".viz", tmp_path_factory.mktemp("viz") / "kept"
    if viz.is_dir():
        shutil.copytree(viz, kept)
    yield
    shutil.rmtree(viz, ignore_errors=True)
    if kept.is_dir():
        shutil.copytree(kept, viz)


@pytest.fixture(scope="session")
def project() -> Path:
    """Root directory of the project."""
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Directory of golden tensors and assets, `../shared` from the project's root."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/ (golden tensors and assets), which is absent")
    return SHARED


@pytest.fixture(scope="session")
def assets(shared: Path) -> Path:
    """The asset folder: MNIST, published teachers, textures."""
    folder = shared / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/ (assets), which is absent")
    return folder


@pytest.fixture
def cpu() -> Compute:
    """The CPU in single precision."""
    return Compute(device="cpu", precision="fp32")


@pytest.fixture
def tiny_teacher() -> TinyTeacher:
    """A deterministic teacher without any torch module: noise 4, classes 3, images 8 x 8."""
    return TinyTeacher()


@pytest.fixture
def tiny_samples(tiny_teacher: TinyTeacher, tmp_path: Path, cpu: Compute) -> SampleShards:
    """Thirty samples of the tiny teacher, in shards of eleven rows."""
    return draw_samples(tmp_path / "tiny_samples", tiny_teacher, {"name": "tiny"}, 10, 11, 0, cpu)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with the modules of the page."""
    names, page = [], Path(__file__).parents[1] / "docs" / "extending.md"
    for title, text in re.findall(r'```python title="(\w+)\.py"\n(.*?)```', page.read_text(), re.DOTALL):
        code = [line for line in text.splitlines() if line.strip()]
        assert len(code) <= 10, title  # as the page promises
        (tmp_path / f"{title}.py").write_text(text)
        names.append(title)
    assert len(names) == 6
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]
