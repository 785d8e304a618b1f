"""The explorer's folder: it opens where it is moved to, and says what is wrong with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.explorer.bundle import ExplorerRecipe, open_explorer
from skdcgn_pipeline.explorer.scene import Choice
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import SHIPPED_DIGITS_TEACHER, identify_teacher, load_teacher
from tiny import explorer_card, untrained_classifiers

FACTORY = "tiny_factory:make"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("stores") / "explorer"
    students = StudentCGN.from_released("digits")
    card = explorer_card()
    recipe = ExplorerRecipe(card, SHIPPED_DIGITS_TEACHER, students, untrained_classifiers())
    return build_in(store, recipe).directory


def test_a_moved_folder_shows_the_same(written, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(written, moved)
    explorer = open_explorer(moved)

    assert explorer.card == explorer_card()
    assert list(explorer.scene.classifiers) == ["originals", "students"]
    noise, labels = torch.randn(1, 32), torch.tensor([3])
    expected = load_teacher("digits_cgn").render(noise, labels).mask
    assert torch.equal(explorer.scene.generators["teacher"].render(noise, labels).mask, expected)
    assert explorer.scene.draw(Choice(0, 3, 0, 1))["students"].composite.shape == (1, 3, 32, 32)


def test_what_is_no_explorer_is_refused(written, tmp_path):
    with pytest.raises(SettingError, match="explorer: expected the folder of a finished explorer"):
        open_explorer(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(written, damaged)
    (damaged / "students" / "model.safetensors").write_bytes(b"")
    with pytest.raises(SettingError, match=r"students/model\.safetensors"):
        open_explorer(damaged)


def test_a_teacher_of_a_factory_is_named_and_must_not_have_changed(tmp_path, monkeypatch):
    module = tmp_path / "tiny_factory.py"
    source = "from skdcgn_pipeline import load_teacher\n\ndef make():\n    return load_teacher('digits_cgn')\n"
    module.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    options = {"name": "custom", "factory": FACTORY}
    teacher = {"identity": identify_teacher(**options), "options": options, "file": None}
    card = explorer_card() | {"teacher": teacher}
    students = StudentCGN.from_released("digits")
    artifact = build_in(tmp_path / "stores", ExplorerRecipe(card, None, students, untrained_classifiers()))

    assert not list(artifact.directory.glob("teacher*"))
    assert open_explorer(artifact.directory).scene.generators["teacher"].noise_dim == 32
    module.write_text(source + "\n# Now another one.\n")
    with pytest.raises(SettingError, match="another source of tiny_factory:make"):
        open_explorer(artifact.directory)


def test_files_in_folders_are_kept_and_verified(written):
    artifact = Artifact.open(written)
    assert "classifier_of_students/config.json" in artifact.manifest["files"]
    assert artifact.damaged_files() == []
