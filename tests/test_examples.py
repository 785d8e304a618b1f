"""The examples in Python of the pages, run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from skdcgn_pipeline import StudentCGN


def code_of(page: Path, heading: str) -> list[str]:
    """Return the Python of a section of a page, block by block."""
    section = page.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the examples name."""
    StudentCGN.from_released("digits").save_pretrained(tmp_path / "folder")
    for digit in range(10):
        (tmp_path / "my_digits" / "train" / str(digit)).mkdir(parents=True)
        for number in range(2):
            picture = Image.new("RGB", (40, 40), (20 * digit, 100 * number, 7))
            picture.save(tmp_path / "my_digits" / "train" / str(digit) / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_in_python_run(project: Path, workplace: Path) -> None:
    names: dict[str, Any] = {}
    blocks = code_of(project / "README.md", "In Python, without Kedro")
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert names["composite"].shape == (8, 3, 32, 32)
    assert names["batch"].shape[1:] == (3, 32, 32)
    assert len(names["images"]) == 20


def test_the_example_of_the_reference_runs(project: Path, workplace: Path) -> None:
    names: dict[str, Any] = {}
    page = (project / "docs" / "api" / "index.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert names["images"].shape == (16, 3, 32, 32)
