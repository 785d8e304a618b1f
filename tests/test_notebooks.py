"""The notebooks: kept without outputs, run from top to bottom, and their pages are of the same code."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

NOTEBOOKS = (
    "01_first_counterfactuals",
    "02_your_own_teacher",
    "03_train_your_classifier",
    "04_read_the_ablation",
    "05_your_own_images",
)
MAX_BYTES = 300 * 1000


@pytest.fixture(scope="module")
def render(project: Path) -> ModuleType:
    """The program that runs notebooks and writes their pages."""
    for library in ("nbclient", "ipykernel"):
        pytest.importorskip(library, reason="needs the extra notebooks")
    spec = importlib.util.spec_from_file_location("render", project / "notebooks" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def path(project: Path, name: str) -> Path:
    return project / "notebooks" / f"{name}.ipynb"


def test_these_are_all(project: Path) -> None:
    assert tuple(sorted(path.stem for path in (project / "notebooks").glob("*.ipynb"))) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_keeps_its_outputs(render: ModuleType, project: Path, path: Path) -> None:
    notebook = render.read(path)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)], "run `make notebooks` and commit what it writes"
    page = (project / "docs" / "notebooks" / f"{path.stem}.md").read_text()
    assert render.as_page(notebook, path.stem) == page
    assert not [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "error"
    ]
    assert "widgets" not in notebook.metadata
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_its_page_is_of_the_same_code(render: ModuleType, project: Path, path: Path) -> None:
    notebook, page = render.read(path), (project / "docs" / "notebooks" / f"{path.stem}.md").read_text()
    parts = [(render.prose if cell.cell_type == "markdown" else render.fenced)(cell.source) for cell in notebook.cells]
    positions = [page.find(part) for part in parts]
    assert -1 not in positions, "run `make notebooks` and commit what it writes"
    assert positions == sorted(positions)
    assert page.count("```python") == sum(cell.cell_type == "code" for cell in notebook.cells)
    shown = re.findall(r"\]\(([\w.]+\.png)\)", page)
    assert shown
    assert all((project / "docs" / "notebooks" / picture).is_file() for picture in shown)


def test_the_pages_are_small(project: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in (project / "docs" / "notebooks").iterdir()}
    assert sum(sizes.values()) < MAX_BYTES, sizes


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_and_shows_what_it_says(
    render: ModuleType, path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel is a process of its own: it finds the code under test, and takes one thread.
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "argv", ["render"])

    notebook = render.executed(path)

    told, shown = "".join(render.texts(notebook)), render.pictures(notebook)
    page = (project / "docs" / "notebooks" / f"{path.stem}.md").read_text()
    assert len(shown) == page.count("![Output]")
    if path.stem.startswith("01"):
        assert "59,116 parameters in all" in told
        assert "659,992 parameters" in told
    elif path.stem.startswith("02"):
        assert float(re.findall(r"'mask_iou': ([\d.]+)", told)[0]) > 0.8
    elif path.stem.startswith("03"):
        biased, unbiased = (float(own) for own in re.findall(r"([\d.]+)% of all", told))
        assert unbiased > biased + 20
    elif path.stem.startswith("05"):
        (originals,) = re.findall(r"originals +([\d.]+)", told)
        (cutouts,) = re.findall(r"cut-outs +([\d.]+)", told)
        assert float(cutouts) > float(originals) + 0.15
    else:
        (difference,) = re.findall(r"factual shape and background \(([+−][\d.]+)\)", told)
        assert float(difference.replace("−", "-")) < -20
