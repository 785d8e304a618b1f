"""What the explorer needs, in one folder: it opens anywhere, without the run that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.classifiers.classification import ORIGINALS
from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.explorer.scene import Scene
from skdcgn_pipeline.images.assets import DEFAULT_ASSETS
from skdcgn_pipeline.metrics.cost import untimed
from skdcgn_pipeline.networks.weights_file import first_line
from skdcgn_pipeline.parameters import Parameters, Teacher, choose_classes
from skdcgn_pipeline.reporting.release import records_of
from skdcgn_pipeline.runtime.errors import DamagedFileError, SettingError
from skdcgn_pipeline.runtime.extensions import UntrustedCodeError
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher, open_identified_teacher, teacher_file
from skdcgn_pipeline.vocabulary import STUDENTS

CARD_FILE = "explorer.json"
STUDENTS_FOLDER, CLASSIFIER_FOLDER = "students", "classifier_of_{}"
# The first of each kind; more would say much the same.
CLASSIFIER_NUMBER = 0
TRAINED_ON = (ORIGINALS, STUDENTS)


class _Part(BaseModel):
    """A part of a card that may come from anybody; what is not read may be anything."""

    model_config = ConfigDict(strict=True)


class _Fidelity(_Part):
    mechanism: str
    teacher_parameters: float | None
    student_parameters: float | None
    l1: float | None
    mask_iou: float | None


class _Accuracy(_Part):
    split: str
    subset: str
    accuracy: Annotated[float, Field(ge=0, le=1)]


class _Classifier(_Part):
    accuracy: list[_Accuracy]


class _Teacher(_Part):
    identity: dict[str, Any]
    options: dict[str, Any]
    file: Annotated[str, Field(pattern=r"^teacher\.\w+$")] | None


class Card(_Part):
    """What `explorer.json` must tell."""

    name: str
    variant: str
    source: str
    seed: int
    teacher: _Teacher
    classes: Annotated[list[int], Field(min_length=1)] | None
    class_names: list[str] | None = None
    fidelity_and_costs: list[_Fidelity]
    classifiers: dict[Literal["originals", "students"], _Classifier]


@dataclass(frozen=True)
class Explorer:
    """An explorer that was opened.

    Attributes:
        scene: Teacher, students and classifiers.
        card: What they are: `name`, `variant`, `source`, `seed`, `teacher`, `classes`, `class_names` where the teacher
            has names, `fidelity_and_costs` by mechanism, and `classifiers` with `number` and `accuracy`.
    """

    scene: Scene
    card: Mapping[str, Any]


@dataclass(frozen=True)
class ExplorerRecipe(Recipe[Artifact]):
    """Everything that the explorer shows in the folder that `open_explorer` reads.

    Attributes:
        card: As in `Explorer`; its `teacher` has the `identity`, the `options` of `load_teacher`, and the name of
            its `file` or None.
        teacher_file: That file, if there is one.
        students, classifiers: As in `Scene`.
        made_from: Identities of the networks, where they come from a run.
    """

    card: Mapping[str, Any]
    teacher_file: Path | None
    students: StudentCGN
    classifiers: Mapping[str, InvariantClassifier]
    made_from: Mapping[str, Any] = field(default_factory=dict)

    kind = "explorer"

    def inputs(self) -> dict[str, Any]:
        """Return the card and what the networks were made from."""
        return {"card": dict(self.card), **self.made_from}

    def build(self, writer: ArtifactWriter) -> None:
        """Write `explorer.json` and the weights of all networks."""
        if self.teacher_file is not None:
            writer.write(self.card["teacher"]["file"], partial(copyfile, self.teacher_file))
        self.students.write_into(writer, f"{STUDENTS_FOLDER}/")
        for name, classifier in self.classifiers.items():
            classifier.write_into(writer, f"{CLASSIFIER_FOLDER.format(name)}/")
        writer.write_json(CARD_FILE, dict(self.card))


def explorer_of_run(
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    classifiers: Mapping[str, tuple[Artifact, InvariantClassifier, list[dict[str, Any]]]],
    comparison: pd.DataFrame,
    parameters: Parameters,
) -> ExplorerRecipe:
    """Return the explorer of a run's teacher, students and classifiers.

    A teacher that is one file is copied; what a factory makes is named, and must be importable where the folder is
    opened.

    Args:
        teacher: The teacher.
        students: Distilled from it.
        classifiers: What `Classification.take` returns, by `TRAINED_ON`; none where there are no real images.
        comparison: Fidelity and costs by mechanism.
        parameters: All settings.
    """
    settings, variant = teacher.settings or parameters.teacher, parameters.variant
    path = teacher_file(settings, variant, parameters.assets)
    num_classes, names = teacher.generator.num_classes, getattr(teacher.generator, "class_names", None)
    card = {
        "name": parameters.run_name,
        "variant": variant,
        "source": parameters.images.source,
        "seed": parameters.seed,
        "teacher": {
            "identity": teacher.identity,
            "options": settings.model_dump(mode="json", exclude={"weights", "fit", "trust_program"}, exclude_none=True),
            "file": None if path is None else f"teacher{path.suffix}",
        },
        "classes": choose_classes("sample.classes", parameters.sample.classes, num_classes, parameters.class_lists),
        "class_names": names and list(names),
        "fidelity_and_costs": records_of(untimed(comparison)),
        "classifiers": {
            name: {"number": CLASSIFIER_NUMBER, "accuracy": accuracy} for name, (_, _, accuracy) in classifiers.items()
        },
    }
    made_from = {
        "students": students.artifact.identity,
        "classifiers": {name: artifact.identity for name, (artifact, _, _) in classifiers.items()},
    }
    networks = {name: classifier for name, (_, classifier, _) in classifiers.items()}
    return ExplorerRecipe(card, path, students.open(), networks, made_from)


def open_explorer(folder: Path | str, trust: bool = False) -> Explorer:
    """Open an explorer's folder, wherever it is now and whoever made it.

    Args:
        folder: The folder.
        trust: Run the teacher that it brings or names where that can be any code: a factory, or a program that is no
            ONNX; and classifiers that are code of somebody's. Everything else in the folder is read as data.

    Raises:
        SettingError: If the folder is none, is damaged or does not fit together; if its teacher is code that is not
            trusted, has changed or cannot be imported.
    """
    where = folder = Path(folder)
    remedy = "Give the folder that `kedro explore` names, or run it again."
    try:
        artifact = Artifact.open(folder)
        where = folder / CARD_FILE
        card = artifact.read_json(CARD_FILE)
        Card.model_validate(card)
        settings = _teacher_of(artifact, card["teacher"], trust)
    except (DamagedFileError, OSError, RecursionError, ValueError) as error:
        got = f"{where} ({_in_one_line(error)})"
        raise SettingError("explorer", "the folder of a finished explorer", got, remedy) from error
    if settings.factory is not None and not trust:
        raise UntrustedCodeError("explorer", "a teacher in a file of tensors or in ONNX", settings.factory)
    teacher = open_identified_teacher(settings, card["variant"], DEFAULT_ASSETS)
    if teacher.identity != card["teacher"]["identity"]:
        got = f"another source of {settings.factory}" if settings.factory else "another one"
        raise SettingError("teacher", "the one that the explorer was made with", got, "Run `kedro explore` again.")
    classifiers = {
        name: InvariantClassifier.from_pretrained(artifact.path(CLASSIFIER_FOLDER.format(name)), trust_code=trust)
        for name in card["classifiers"]
    }
    num_classes, image_size = teacher.generator.num_classes, teacher.generator.image_size
    for name, classifier in classifiers.items():
        known = len(classifier.labels) if all(isinstance(label, str) for label in classifier.labels) else 0
        if known != num_classes or not 0 < classifier.image_size <= image_size:
            got = f"{known} and {classifier.image_size}"
            expected = f"{num_classes} names, at most {image_size} pixels"
            raise SettingError(f"classifier '{name}'", expected, got, remedy)
    students = StudentCGN.from_pretrained(artifact.path(STUDENTS_FOLDER))
    names = card.get("class_names")
    if names is not None and len(names) != num_classes:
        raise SettingError("class_names", f"{num_classes} names", len(names), remedy)
    return Explorer(Scene(teacher.generator, students, classifiers, card["classes"], names), card)


def _teacher_of(artifact: Artifact, card: Mapping[str, Any], trust: bool) -> Teacher:
    """Return the settings of the teacher of a card; whether it is trusted is not the card's to say."""
    weights = None if card["file"] is None else str(artifact.path(card["file"]))
    given = {"weights": weights, "trust_program": trust, "fit": {"num_images": 1}}
    if unknown := sorted(given.keys() & card["options"].keys()):
        raise ValueError(f"teacher.options.{unknown[0]}: no option of a card")
    return Teacher.model_validate({**card["options"], **given})


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return str(error) if isinstance(error, DamagedFileError) else first_line(error)
