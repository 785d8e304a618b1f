"""The explorer's folder: it opens where it is moved to, and says what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.artifacts.store import Artifact, sha256_of_file
from skdcgn_pipeline.explorer.__main__ import main
from skdcgn_pipeline.explorer.bundle import ExplorerRecipe, open_explorer
from skdcgn_pipeline.explorer.scene import Choice
from skdcgn_pipeline.mechanisms import compose
from skdcgn_pipeline.parameters import Teacher
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import SHIPPED_DIGITS_TEACHER, load_teacher, open_identified_teacher
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
    assert compose(explorer.scene.draw(Choice(0, 3, 0, 1))["students"].images).shape == (1, 3, 32, 32)


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
    identity = open_identified_teacher(Teacher(**options), None, "absent").identity
    teacher = {"identity": identity, "options": options, "file": None}
    card = explorer_card() | {"teacher": teacher}
    students = StudentCGN.from_released("digits")
    artifact = build_in(tmp_path / "stores", ExplorerRecipe(card, None, students, untrained_classifiers()))

    assert not list(artifact.directory.glob("teacher*"))
    monkeypatch.delitem(sys.modules, "tiny_factory")
    with pytest.raises(SettingError, match=r"tiny_factory:make, code that would be imported.*--trust"):
        open_explorer(artifact.directory)
    assert "tiny_factory" not in sys.modules
    assert open_explorer(artifact.directory, trust=True).scene.generators["teacher"].noise_dim == 32
    module.write_text(source + "\n# Now another one.\n")
    with pytest.raises(SettingError, match="another source of tiny_factory:make"):
        open_explorer(artifact.directory, trust=True)


def remade(written: Path, folder: Path, changes: dict[str, bytes]) -> Path:
    """Return a whole copy of an explorer's folder with other files in it."""
    shutil.copytree(written, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, content in changes.items():
        (folder / name).write_bytes(content)
        manifest["files"][name] = sha256_of_file(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def as_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


CARD = explorer_card()
TEACHER = CARD["teacher"]
CUSTOM = {"name": "custom", "noise_dim": 32, "num_classes": 10, "image_size": 32}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "explorer: "),
        (b"\xff", "explorer: "),
        (b"[" * 100_000, "explorer: "),
        (b"[]", "explorer: "),
        (b"{}", "name: "),
        *(
            (as_bytes(CARD | change), message)
            for change, message in [
                ({"name": 3}, "name: "),
                ({"classes": "0123"}, "classes: "),
                ({"classes": []}, "classes: "),
                ({"classes": [0, True]}, "classes.1: "),
                ({"classes": [0, 10]}, "classes: expected classes 0 to 9, got 10"),
                ({"classes": [-1]}, "classes: expected classes 0 to 9, got -1"),
                ({"classifiers": {"../../elsewhere": {"accuracy": []}}}, "classifiers"),
                ({"classifiers": {"students": {"accuracy": "high"}}}, "classifiers.students.accuracy: "),
                ({"fidelity_and_costs": [{}]}, "fidelity_and_costs.0.mechanism: "),
                ({"teacher": None}, "teacher: "),
                ({"teacher": TEACHER | {"file": "../teacher.safetensors"}}, "teacher.file: "),
                ({"teacher": TEACHER | {"options": {"name": "digits_cgn", "speed": 3}}}, "speed: "),
                ({"teacher": TEACHER | {"options": {"name": "nobody"}}}, "name: "),
                ({"teacher": TEACHER | {"options": {}}}, "name: "),
                ({"teacher": TEACHER | {"options": CUSTOM | {"noise_dim": "many"}}}, "noise_dim: "),
                ({"teacher": TEACHER | {"options": CUSTOM | {"trust_program": True}}}, "trust_program: "),
                ({"teacher": TEACHER | {"identity": {"sha256": "another"}}}, "got another one"),
            ]
        ),
    ],
)
def test_a_card_of_anybody_is_told_in_one_line(written, tmp_path, monkeypatch, capsys, content, message):
    folder = remade(written, tmp_path / "foreign", {"explorer.json": content})
    monkeypatch.setitem(sys.modules, "gradio", object())
    assert main([str(folder)]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("students", {"num_classes": 10**9}),
        ("students", {"image_size": "32"}),
        ("students", {"architectures": {}}),
        ("classifier_of_students", {"labels": [*range(10)]}),
        ("classifier_of_students", {"labels": [str(number) for number in range(9)]}),
        ("classifier_of_students", {"image_size": 64}),
    ],
)
def test_networks_that_do_not_fit_are_told_in_one_line_at_once(written, tmp_path, part, changes):
    name = f"{part}/config.json"
    config = json.loads((written / name).read_text()) | changes
    folder = remade(written, tmp_path / "foreign", {name: as_bytes(config)})
    with pytest.raises(SettingError) as caught:
        open_explorer(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_program_that_a_folder_brings_is_not_opened(written, tmp_path, suffix):
    name = f"teacher{suffix}"
    card = CARD | {"teacher": {"identity": {}, "options": CUSTOM, "file": name}}
    folder = remade(written, tmp_path / "foreign", {name: b"code", "explorer.json": as_bytes(card)})
    with pytest.raises(SettingError, match=r"an ONNX program .*--trust"):
        open_explorer(folder)


@pytest.mark.parametrize("name", ["../outside", "/dev/zero", "link", "fifo"])
def test_a_folder_is_what_lies_in_it(written, tmp_path, name):
    folder = tmp_path / "foreign"
    shutil.copytree(written, folder)
    (tmp_path / "outside").write_bytes(b"")
    (folder / "link").symlink_to("/dev/zero")
    os.mkfifo(folder / "fifo")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(b"").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SettingError, match=f"a missing or changed {name}"):
        open_explorer(folder)


def test_files_in_folders_are_kept_and_verified(written):
    artifact = Artifact.open(written)
    assert "classifier_of_students/config.json" in artifact.manifest["files"]
    assert artifact.damaged_files() == []
