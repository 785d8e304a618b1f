"""The examples in Python of the pages, run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from skdcgn_pipeline import StudentCGN, load_teacher


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
    page = project / "docs" / "python.md"
    blocks = [*code_of(page, "Students and teachers"), *code_of(page, "In your own training")]
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert names["composite"].shape == (8, 3, 32, 32)
    assert names["batch"].shape[1:] == (3, 32, 32)
    assert len(names["images"]) == 20


def test_the_examples_of_the_readme_run(project: Path, workplace: Path) -> None:
    for heading, written in (("Try it in 60 seconds", "threes.png"), ("Use it", None)):
        names: dict[str, Any] = {}
        (block,) = code_of(project / "README.md", heading)
        exec(block, names)
        assert written is None or (workplace / written).stat().st_size > 1000
    assert names["batch"].shape[1:] == (3, 32, 32)


def test_the_teacher_of_the_guide_keeps_the_interface(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project / "docs")
    teacher = load_teacher("custom", factory="shapes_teacher:make_teacher")
    assert (teacher.noise_dim, teacher.num_classes, teacher.image_size) == (16, 7, 48)
    # Each shape covers something, and no two cover the same.
    masks = teacher.render(torch.zeros(7, 16), torch.arange(7)).mask > 0.5
    shares = masks.float().mean((1, 2, 3))
    assert shares.min() > 0.05
    assert len(shares.unique()) == 7
