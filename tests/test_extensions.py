"""Code of a user's own, named in the settings: the examples of the page, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from configuration import merge, read_folder
from skdcgn_pipeline import Composition, InvariantClassifier
from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.classifiers.training import ClassifierRecipe, Lesson, class_lesson
from skdcgn_pipeline.images.batches import draw_from_split
from skdcgn_pipeline.images.recipes import image_set_recipe
from skdcgn_pipeline.losses.distillation import weights_of
from skdcgn_pipeline.parameters import (
    ClassifierFit,
    ClassifierNetwork,
    Compute,
    Distill,
    Images,
    Prepare,
    check_parameters,
)
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.extensions import is_extension, resolve, sha256_of_source
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import StudentRecipe
from skdcgn_pipeline.studies.registry import expand_cells, study_of
from skdcgn_pipeline.teachers.teacher import load_teacher
from skdcgn_pipeline.transformations import transform_mechanism
from tiny import TinyTeacher

SMALL = Distill(num_steps=2, batch_size=4, student={"architecture": "compact", "width": [2, 2, 2], "embedding_dim": 2})


@pytest.fixture
def raw(project: Path) -> dict[str, Any]:
    return read_folder(project / "conf" / "base")


def change(raw: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Set the setting with a dotted name."""
    for part in reversed(name.split(".")):
        value = {part: value}
    merge(raw, value)
    return raw


def test_what_is_a_name_of_code() -> None:
    assert all(map(is_extension, ["a:b", "a.b:make_it", "_a:B"]))
    assert not any(map(is_extension, ["ab", "timm:resnet18", "a:b:c", "a:", ":b", "C:/a", "1:30", "a b:c", None, 3]))


# --- the examples ---------------------------------------------------------------------------------


@pytest.fixture
def images(examples: Path, tmp_path: Path):
    recipe = image_set_recipe(Images(source="my_images:read_images"), _prepare(), "mine", "", 0)
    return build_in(tmp_path / "images", recipe)


def _prepare() -> Prepare:
    return Prepare(copies=1, binarise_threshold=0.5, feature_network={"num_images": 64})


def test_a_source_of_images(images) -> None:
    assert images.class_names == ("bright", "dark")
    assert {name: len(images.split(name)) for name in images.roles} == {"train": 36, "validation": 4, "test": 20}
    train = images.split("train")
    is_dark = train.images.float().mean((1, 2, 3)) < 128
    assert torch.equal(is_dark, train.labels == 1)


def test_a_classifier(images, tmp_path: Path, cpu: Compute) -> None:
    fit = ClassifierFit(num_images=64, batch_size=16)

    def lessons() -> list[Lesson]:
        return [class_lesson(draw_from_split(images.split("train"), 0, "test"), fit)]

    network = ClassifierNetwork(architecture="my_network:make_network")
    recipe = ClassifierRecipe({"images": 1}, lessons, fit, 0, cpu, num_classes=2, network=network)
    _, classifier = build_in(tmp_path / "classifier", recipe)
    taken = InvariantClassifier.of(classifier, images.class_names)
    taken.save_pretrained(tmp_path / "taken")
    table = taken.predict(images.split("test").images)
    assert table["probability_dark"].between(0, 1).all()
    with pytest.raises(SettingError, match=r"my_network:make_network, code that would be imported; nothing of it was"):
        InvariantClassifier.from_pretrained(tmp_path / "taken")
    trusted = InvariantClassifier.from_pretrained(tmp_path / "taken", trust_code=True)
    again = trusted.predict(images.split("test").images)
    assert again["probability_dark"].to_numpy() == pytest.approx(table["probability_dark"].to_numpy(), abs=1e-5)


def test_a_loss(examples: Path, tiny_samples: SampleShards, tmp_path: Path, cpu: Compute) -> None:
    weights = {"further": {"my_loss:edges": 0.5}}
    settings = SMALL.model_copy(update={"weights": Distill(num_steps=1, weights=weights).weights})
    assert [*weights_of("texture", settings)][-1] == "my_loss:edges"
    student = build_in(tmp_path / "student", StudentRecipe("shape", tiny_samples, settings, 0, cpu))
    assert student.history[-1]["my_loss:edges"] > 0


def test_a_transformation(examples: Path, tiny_teacher: TinyTeacher) -> None:
    composition = Composition(transformations={"texture": [{"kind": "my_transformation:quantise", "strength": 3}]})
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    changed = transform_mechanism(images, "texture", composition.transformations.of("texture"), torch.Generator())
    assert set(changed.mul(3).round().unique().tolist()) <= {-3.0, -1.0, 1.0, 3.0}
    assert composition.identity()["transformations"]["texture"][0]["sources"]


def test_a_study(examples: Path, raw) -> None:
    settings = check_parameters(change(raw, "ablation.study", ["my_study:ShareStudy", "counts"]))
    cells = expand_cells(settings.ablation, settings.students)
    assert [cell.name for cell in cells if cell.study == "my_study:ShareStudy"] == ["reference", "one in ten"]
    assert study_of("my_study:ShareStudy").title == "A few originals"


def test_a_teacher(examples: Path) -> None:
    assert load_teacher("custom", factory="my_teacher:make_teacher").num_classes == 10


# --- one mechanism --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent_module:f", "No module named 'absent_module'"),
        ("my_loss:absent", "has no attribute 'absent'"),
        ("my_study:REFERENCE", "is not a callable object"),
        ("my_images:read_images", "too many positional arguments"),
        ("broken:f", "ZeroDivisionError|division by zero"),
    ],
)
def test_code_that_cannot_be_used_is_refused_in_one_line(examples: Path, name: str, told: str) -> None:
    (examples / "broken.py").write_text("1 / 0\n")
    with pytest.raises(SettingError, match=told) as refused:
        resolve("a.setting", name, "images", "strength")
    assert str(refused.value).startswith(
        "a.setting: expected an importable module:function that takes (images, strength), got"
    )
    assert "\n" not in str(refused.value)


def test_the_source_of_modules_beside_it_counts(examples: Path) -> None:
    (examples / "helping.py").write_text("FACTOR = 2\n")
    (examples / "main_part.py").write_text("import torch\nimport helping\n\n\ndef f():\n    return helping.FACTOR\n")
    (examples / "not_used.py").write_text("1\n")
    first = sha256_of_source("a.setting", "main_part:f")
    (examples / "not_used.py").write_text("2\n")
    assert sha256_of_source("a.setting", "main_part:f") == first
    (examples / "helping.py").write_text("FACTOR = 3\n")
    assert sha256_of_source("a.setting", "main_part:f") != first


def test_source_and_content_of_images_are_in_their_identity(examples: Path) -> None:
    def inputs() -> dict:
        from skdcgn_pipeline.images.function_source import read_splits

        read_splits.cache_clear()
        return image_set_recipe(Images(source="counting:read"), _prepare(), "mine", "", 0).inputs()

    (examples / "counting.py").write_text(
        "from pathlib import Path\nimport torch\n\n\ndef read():\n    value = int(Path('value.txt').read_text())\n"
        "    images = torch.full((8, 3, 4, 4), value, dtype=torch.uint8)\n"
        "    return {'train': (images, [0, 1] * 4), 'test': (images, [0, 1] * 4)}\n"
    )
    (examples / "value.txt").write_text("3")
    first = inputs()
    assert inputs() == first
    (examples / "value.txt").write_text("4")
    assert inputs() != first


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("None", "images of 'train' and of another split from given:read, got NoneType"),
        ("{'test': (images, labels)}", "images of 'train' and of another split"),
        ("{'train': (images, labels), 'test': (images, labels[:1])}", "images and labels of 'test', got 1 labels of"),
        ("{'train': (images, labels), 'test': (images.float(), labels)}", r"uint8 images \[N, 3, 4, 4\]"),
        ("{'train': (images, labels), 'test': (images[..., :2], labels)}", r"uint8 images \[N, 3, 4, 4\]"),
        ("{'train': (images, labels), 'test': (images, [7] * 8)}", "labels of 'train', got 7 in 'test'"),
    ],
)
def test_images_of_another_form_are_refused(examples: Path, returned: str, told: str) -> None:
    from skdcgn_pipeline.images.function_source import read_splits

    read_splits.cache_clear()
    (examples / "given.py").write_text(
        "import torch\n\n\ndef read():\n    images = torch.zeros(8, 3, 4, 4, dtype=torch.uint8)\n"
        f"    labels = [0, 1] * 4\n    return {returned}\n"
    )
    with pytest.raises(SettingError, match=told):
        image_set_recipe(Images(source="given:read"), _prepare(), "mine", "", 0).inputs()


def test_settings_say_what_they_name(raw) -> None:
    raw = change(raw, "shape.distill.weights.further", {"a:loss": 1})
    raw = change(raw, "compose.composition.transformations.texture", [{"kind": "b:change"}])
    raw = change(raw, "classify.network.architecture", "c:network")
    raw = change(raw, "ablation.study", ["counts", "d:Study"])
    named = {setting: name for setting, name, _ in check_parameters(raw).extensions()}
    assert named == {
        "shape.distill.weights.further": "a:loss",
        "compose.composition.transformations.texture.0.kind": "b:change",
        "classify.network.architecture": "c:network",
        "ablation.study": "d:Study",
    }
    assert not {"a", "b", "c", "d"} & set(sys.modules)


def test_more_than_one_study_of_ones_own_is_refused(raw) -> None:
    with pytest.raises(SettingError, match="one study of your own at a time, got a:b, c:d"):
        check_parameters(change(raw, "ablation.study", ["a:b", "c:d"]))


def test_what_names_no_code_keeps_its_identity() -> None:
    assert "sources" not in repr(SMALL.identity()) + repr(Composition().identity()) + repr(
        ClassifierNetwork().identity()
    )
    assert "further" not in SMALL.identity()["weights"]
