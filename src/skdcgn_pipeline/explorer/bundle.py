"""What the explorer needs, in one folder: it opens anywhere, without the run that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.classifiers.classification import ORIGINALS
from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.explorer.scene import Scene
from skdcgn_pipeline.metrics.cost import untimed
from skdcgn_pipeline.parameters import Parameters, choose_classes
from skdcgn_pipeline.reporting.release import records_of, release_name
from skdcgn_pipeline.runtime.errors import DamagedFileError, SettingError
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher, identify_teacher, load_teacher, teacher_file
from skdcgn_pipeline.vocabulary import STUDENTS

CARD_FILE = "explorer.json"
STUDENTS_FOLDER, CLASSIFIER_FOLDER = "students", "classifier_of_{}"
# The first of each kind; more would say much the same.
CLASSIFIER_NUMBER = 0
TRAINED_ON = (ORIGINALS, STUDENTS)


@dataclass(frozen=True)
class Explorer:
    """An explorer that was opened.

    Attributes:
        scene: Teacher, students and classifiers.
        card: What they are: `name`, `variant`, `source`, `seed`, `teacher`, `classes`, `fidelity_and_costs` by
            mechanism, and `classifiers` with `number` and `accuracy`.
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
        classifiers: What `Classification.take` returns, by `TRAINED_ON`.
        comparison: Fidelity and costs by mechanism.
        parameters: All settings.
    """
    settings, variant, assets = parameters.teacher, parameters.variant, parameters.assets
    path = teacher_file(settings, variant, assets)
    num_classes = teacher.generator.num_classes
    card = {
        "name": release_name(parameters),
        "variant": variant,
        "source": parameters.images.source,
        "seed": parameters.seed,
        "teacher": {
            "identity": teacher.identity,
            "options": settings.model_dump(mode="json", exclude={"weights", "fit"}, exclude_none=True),
            "file": None if path is None else f"teacher{path.suffix}",
        },
        "classes": choose_classes("sample.classes", parameters.sample.classes, num_classes, parameters.class_lists),
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


def open_explorer(folder: Path | str) -> Explorer:
    """Open an explorer's folder, wherever it is now.

    Raises:
        SettingError: If the folder is none, is damaged, or its teacher is made by a factory that has changed or
            cannot be imported.
    """
    folder = Path(folder)
    try:
        artifact = Artifact.open(folder)
        card = artifact.read_json(CARD_FILE)
    except (DamagedFileError, OSError, json.JSONDecodeError) as error:
        remedy = "Give the folder that `kedro explore` names, or run it again."
        raise SettingError("explorer", "the folder of a finished explorer", f"{folder} ({error})", remedy) from error
    teacher = card["teacher"]
    options = dict(teacher["options"])
    if teacher["file"] is None:
        if identify_teacher(**options) != teacher["identity"]:
            got = f"another source of {options['factory']}"
            raise SettingError("teacher", "the one that the explorer was made with", got, "Run `kedro explore` again.")
    else:
        options["weights"] = artifact.path(teacher["file"])
    classifiers = {
        name: InvariantClassifier.from_pretrained(artifact.path(CLASSIFIER_FOLDER.format(name)))
        for name in card["classifiers"]
    }
    students = StudentCGN.from_pretrained(artifact.path(STUDENTS_FOLDER))
    return Explorer(Scene(load_teacher(**options), students, classifiers, card["classes"]), card)
