"""What is exported: the same numbers in every form, a card, and clear words where something is missing."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch

import skdcgn_pipeline
from configuration import read_folder
from libraries import needs
from skdcgn_pipeline import InvariantClassifier, StudentCGN, load_teacher
from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.artifacts.store import sha256_of_file
from skdcgn_pipeline.classifiers.training import ClassifierRecipe, class_lesson
from skdcgn_pipeline.export.classifier import ClassifierExport
from skdcgn_pipeline.export.students import StudentsExport, origin_of_release, origin_of_run
from skdcgn_pipeline.networks import programs
from skdcgn_pipeline.parameters import ClassifierFit, Compute, check_parameters
from skdcgn_pipeline.reporting.templates import template
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.program import OUTPUTS, StudentProgram, by_onnxruntime, example_of
from skdcgn_pipeline.students.recipes import ReleasedStudentsRecipe
from skdcgn_pipeline.vocabulary import MECHANISMS

pytestmark = needs(*programs.LIBRARIES, extra="export")

ORIGIN = {"name": "tiny", "released": False, "fidelity_and_costs": []}
COMPACT = {"architecture": "compact", "width": [4, 6, 4], "embedding_dim": 4}
BASIS = {"architecture": "basis", "width": [3, 5, 4], "embedding_dim": 4}
TINYGAN = {"architecture": "tinygan", "width": 2, "embedding_dim": 4}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported students of the digits."""
    store = tmp_path_factory.mktemp("stores")
    students = build_in(store / "student", ReleasedStudentsRecipe("digits"))
    return build_in(store / "export", StudentsExport(students, origin_of_release("digits"))).directory


def test_an_export_holds_everything_that_is_promised(exported):
    names = [
        "README.md",
        "card.json",
        "config.json",
        "manifest.json",
        "model.safetensors",
        "students.onnx",
        "students.pt2",
    ]
    assert sorted(path.name for path in exported.iterdir()) == names


def test_the_number_of_images_has_its_name_in_onnx(exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported / "students.onnx", providers=["CPUExecutionProvider"])
    assert {value.shape[0] for value in (*session.get_inputs(), *session.get_outputs())} == {"num_images"}


def test_programs_do_not_say_where_they_were_traced(exported):
    texts = [(exported / "students.onnx").read_bytes()]
    with zipfile.ZipFile(exported / "students.pt2") as archive:
        texts += [archive.read(name) for name in archive.namelist()]
    folders = {Path(module.__file__).parents[1] for module in (skdcgn_pipeline, torch)}
    assert not [str(folder) for folder in folders for text in texts if str(folder).encode() in text]


def test_exported_students_are_the_released_ones(exported):
    expected, _ = StudentCGN.from_released("digits").sample(3, seed=1)
    torch.testing.assert_close(StudentCGN.from_pretrained(exported).sample(3, seed=1)[0], expected)


@pytest.mark.parametrize("name", ["students.onnx", "students.pt2"])
def test_a_program_renders_what_the_students_render(exported, name):
    students = StudentCGN.from_released("digits")
    noise, *labels = example_of(students, 5)
    images = students.render(noise, dict(zip(MECHANISMS, labels, strict=True)))
    for mechanism, output in zip(MECHANISMS, programs.run_program(exported / name, (noise, *labels)), strict=True):
        torch.testing.assert_close(output, images.of(mechanism), rtol=0, atol=1e-4)


def test_an_exported_program_is_a_teacher(exported):
    teacher = load_teacher("custom", exported / "students.onnx", noise_dim=32, num_classes=10, image_size=32)
    noise, labels = torch.randn(2, 32), torch.tensor([3, 8])
    mask = StudentCGN.from_released("digits").render(noise, labels).mask
    torch.testing.assert_close(teacher.render(noise, labels).mask, mask, rtol=0, atol=1e-4)


def test_the_card_tells_where_the_students_come_from(exported):
    card = json.loads((exported / "card.json").read_text())
    assert card["name"] == "digits"
    assert card["origin"]["released"] is True
    assert card["interface"] == {"noise_dim": 32, "num_classes": 10, "image_size": 32}
    assert set(card["largest_differences"]) == {"students.onnx", "students.pt2"}
    assert all(0 <= value <= 1e-4 for own in card["largest_differences"].values() for value in own.values())
    assert set(card["versions"]) == {"skdcgn_pipeline", "torch", *programs.LIBRARIES}
    for name, sha256 in card["sha256"].items():
        assert sha256_of_file(exported / name) == sha256
    page = (exported / "README.md").read_text()
    assert "`shape_class`, `texture_class`, `background_class`" in page
    assert "59,116 parameters" in page


def test_names_of_classes_cannot_break_a_card():
    page = template("export/classifier.md.j2").render(
        name="na`me",
        versions={"skdcgn_pipeline": "1"},
        parameters=1,
        labels=["a`|<b>\n# head"],
        largest_differences={"classifier.onnx": {"p": 0.0}, "classifier.pt2": {"p": 0.0}},
        image_size=32,
        accuracy=[{"split": "te|st<i>", "subset": "all", "accuracy": 0.5, "num_images": 3}],
    )
    assert "`a'\\|&lt;b> # head`" in page
    assert "| te\\|st&lt;i> | all | 50.0 | 3 |" in page
    assert "<b>" not in page


def test_every_architecture_becomes_a_program(tmp_path):
    torch.manual_seed(0)
    architectures = {"shape": BASIS, "texture": TINYGAN, "background": COMPACT}
    students = StudentCGN(4, 3, 16, architectures).eval().requires_grad_(False)
    network = StudentProgram(students)
    program = programs.trace(network, lambda number: example_of(students, number))
    programs.save_program(program, tmp_path / "students.pt2")
    path = tmp_path / "students.pt2"
    differences = programs.compare(path, network, lambda number: example_of(students, number), OUTPUTS)
    assert set(differences) == set(OUTPUTS)


def test_rounded_students_are_the_same_in_every_form(tmp_path):
    students = build_in(tmp_path / "student", ReleasedStudentsRecipe("digits"))
    folder = build_in(tmp_path / "export", StudentsExport(students, origin_of_release("digits"), bits=6)).directory
    loaded, example = StudentCGN.from_pretrained(folder), example_of(students.open(), 5)
    assert (folder / "model.safetensors").stat().st_size < 60_000
    assert json.loads((folder / "card.json").read_text())["bits"] == 6
    expected = StudentProgram(loaded)(*example)
    for images, other in zip(programs.run_program(folder / "students.onnx", example), expected, strict=True):
        torch.testing.assert_close(images, other, rtol=0, atol=1e-4)
    assert not torch.equal(expected[0], StudentProgram(students.open())(*example)[0])


def test_onnxruntime_renders_what_the_students_render():
    students = StudentCGN.from_released("wildlife_mnist")
    program = by_onnxruntime(students)
    for num_images in (1, 33):
        noise, labels = torch.randn(num_images, 32), torch.arange(num_images) % 10
        images, expected = (vars(own.render(noise, labels)) for own in (program, students))
        torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)


def test_a_program_that_differs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "run_program", lambda path, arguments: [arguments[0] + 2e-4])
    with pytest.raises(SettingError, match=r"export: \.onnx program: expected outputs within 0\.0001"):
        programs.compare(tmp_path / "x.onnx", torch.nn.Identity(), lambda n: (torch.zeros(n, 2),), ["out"])


def test_missing_libraries_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr(programs, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(
        SettingError, match=r"got no onnxscript\. Install them: pip install \"skdcgn_pipeline\[export\]\""
    ):
        programs.check_libraries()


@pytest.fixture(scope="module")
def exported_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("stores")

    def draw(step: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(batch_size, 3, 32, 32) * 2 - 1, torch.arange(batch_size) % 3

    settings = ClassifierFit(num_images=12, batch_size=6)
    lessons = [class_lesson(draw, settings)]
    recipe = ClassifierRecipe({"test": 1}, lambda: lessons, settings, 0, Compute(device="cpu"), 3)
    trained, network = build_in(store, recipe)
    classifier = InvariantClassifier.of(network, ["a", "b", "c"])
    accuracy = [{"split": "test", "subset": "all", "accuracy": 0.5, "num_images": 1234}]
    return build_in(store / "export", ClassifierExport(trained, classifier, accuracy, ORIGIN)).directory


@pytest.mark.parametrize("name", ["classifier.onnx", "classifier.pt2"])
def test_a_classifiers_program_takes_images_of_files(exported_classifier, name):
    classifier = InvariantClassifier.from_pretrained(exported_classifier)
    images = torch.rand(4, 3, 32, 32)
    (probabilities,) = programs.run_program(exported_classifier / name, (images,))
    torch.testing.assert_close(probabilities, classifier(images), rtol=0, atol=1e-4)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


def test_the_page_of_a_classifier_tells_labels_and_accuracy(exported_classifier):
    page = (exported_classifier / "README.md").read_text()
    assert "labels `a`, `b`, `c`." in page
    assert "| test | all | 50.0 | 1,234 |" in page


def test_an_origin_keeps_no_times(project):
    comparison = pd.DataFrame([{"mechanism": "all", "l1": 0.5, "teacher_macs": 3, "teacher_images_per_s": 9.0}])
    origin = origin_of_run(check_parameters(read_folder(project / "conf" / "base")), comparison)
    assert origin["fidelity_and_costs"] == [{"mechanism": "all", "l1": 0.5, "teacher_macs": 3}]
