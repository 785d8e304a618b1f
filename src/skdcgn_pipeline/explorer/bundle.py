"""What the explorer needs, in one folder: it opens anywhere, without the run that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import pandas as pd

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, build_artifact
from skdcgn_pipeline.classifiers.classification import ORIGINALS, RecordScope, take_classifier, unrecorded
from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.explorer.scene import Scene
from skdcgn_pipeline.images.biased import BiasedImages
from skdcgn_pipeline.networks.pretrained import PretrainedModel
from skdcgn_pipeline.parameters import Parameters, choose_classes
from skdcgn_pipeline.reporting.release import records_of, release_name
from skdcgn_pipeline.runtime.errors import DamagedFileError, SettingError
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.distillation import StudentsArtifact
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


def build_explorer(
    store: Path,
    classifier_store: Path,
    counterfactual_store: Path,
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    samples: SampleShards,
    biased_images: BiasedImages,
    comparison: pd.DataFrame,
    parameters: Parameters,
    record_scope: RecordScope = unrecorded,
) -> Artifact:
    """Put teacher, students and the first classifier of originals and of counterfactuals into one folder.

    Classifiers that the run has not trained are trained now. A teacher that is one file is copied; what a factory
    makes is named, and must be importable where the folder is opened.

    Args:
        store: Directory of explorers.
        classifier_store, counterfactual_store: As in `take_classifier`.
        teacher: The teacher.
        students: Distilled from it.
        samples: The students' pool.
        biased_images: Originals, and what the classifiers are measured on.
        comparison: Fidelity and costs by mechanism.
        parameters: All settings.
        record_scope: As in `train_and_measure`.

    Returns:
        An artifact with `explorer.json` and the weights of all networks.
    """
    settings, variant, assets = parameters.teacher, parameters.variant, parameters.assets
    source = teacher_file(settings, variant, assets)
    options = settings.model_dump(mode="json", exclude={"weights", "fit"}, exclude_none=True)
    taken = {
        name: take_classifier(
            classifier_store,
            counterfactual_store,
            name,
            samples,
            biased_images,
            parameters,
            CLASSIFIER_NUMBER,
            record_scope,
        )
        for name in TRAINED_ON
    }
    num_classes = teacher.generator.num_classes
    teacher_name = None if source is None else f"teacher{source.suffix}"
    card: dict[str, Any] = {
        "name": release_name(parameters),
        "variant": variant,
        "source": parameters.prepare.source,
        "seed": parameters.seed,
        "teacher": {"identity": teacher.identity, "options": options, "file": teacher_name},
        "classes": choose_classes("sample.classes", parameters.sample.classes, num_classes, parameters.class_lists),
        "fidelity_and_costs": records_of(comparison),
        "classifiers": {
            name: {"number": CLASSIFIER_NUMBER, "accuracy": accuracy} for name, (_, _, accuracy) in taken.items()
        },
    }

    inputs = {
        "kind": "explorer",
        "students": students.artifact.identity,
        "classifiers": {name: artifact.identity for name, (artifact, _, _) in taken.items()},
        "card": card,
    }
    classifiers = {name: classifier for name, (_, classifier, _) in taken.items()}
    return write_explorer(store, inputs, card, source, students.open(), classifiers)


def write_explorer(
    store: Path,
    inputs: Mapping[str, Any],
    card: Mapping[str, Any],
    teacher: Path | None,
    students: StudentCGN,
    classifiers: Mapping[str, InvariantClassifier],
) -> Artifact:
    """Write the folder that `open_explorer` reads.

    Args:
        store: Directory of explorers.
        inputs: Everything that the content depends on.
        card: As in `Explorer`; its `teacher` has the `identity`, the `options` of `load_teacher`, and the name of
            its `file` or None.
        teacher: That file, if there is one.
        students, classifiers: As in `Scene`.
    """

    def write(writer: ArtifactWriter) -> None:
        if teacher is not None:
            writer.write(card["teacher"]["file"], partial(copyfile, teacher))
        _write_network(writer, STUDENTS_FOLDER, students)
        for name, classifier in classifiers.items():
            _write_network(writer, CLASSIFIER_FOLDER.format(name), classifier)
        writer.write_json(CARD_FILE, dict(card))

    return build_artifact(store, inputs, write)


def _write_network(writer: ArtifactWriter, folder: str, network: PretrainedModel) -> None:
    written = writer.scratch(folder)
    network.save_pretrained(written)
    for path in sorted(written.iterdir()):
        writer.write(f"{folder}/{path.name}", partial(copyfile, path))


def open_explorer(folder: Path | str) -> Explorer:
    """Open what `build_explorer` wrote, wherever it is now.

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
