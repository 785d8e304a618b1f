"""Nodes of the export stage."""

from typing import Any

import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.export.classifier import ClassifierExport
from skdcgn_pipeline.export.students import StudentsExport, origin_of_release, origin_of_run
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.io.serving import log_classifier, log_students
from skdcgn_pipeline.parameters import Export, check_parameters
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import ReleasedStudentsRecipe, StudentsArtifact
from skdcgn_pipeline.vocabulary import STUDENTS


def take_run_students(
    students: StudentsArtifact, student_comparison: pd.DataFrame, parameters: dict[str, Any]
) -> tuple[StudentsArtifact, dict[str, Any]]:
    """Take the students of the run, and tell what they come from."""
    return students, origin_of_run(check_parameters(parameters), student_comparison)


def take_released_students(run: Run, export: Export) -> tuple[StudentsArtifact, dict[str, Any]]:
    """Take students that come with the package, and tell what they come from."""
    students = run.make(ReleasedStudentsRecipe(export.students))
    return students, origin_of_release(export.students)


def export_students(run: Run, students: StudentsArtifact, origin: dict[str, Any], export: Export) -> Artifact:
    """Write the students as safetensors, ONNX and `torch.export`, with a card."""
    return run.make(StudentsExport(students, origin, export.bits))


def export_classifier(
    run: Run,
    samples: SampleShards,
    biased_images: StoredImages,
    origin: dict[str, Any],
    parameters: dict[str, Any],
) -> Artifact:
    """Write a classifier trained on the students' counterfactuals likewise."""
    settings = check_parameters(parameters)
    classification = Classification(run, biased_images, settings.classify)
    composition = settings.compose.resolved(samples.num_classes, settings.class_lists)
    taken = classification.take(STUDENTS, samples, settings.compose, composition, settings.export.classifier)
    return run.make(ClassifierExport(*taken, origin))


def register_students(student_export: Artifact, origin: dict[str, Any], export: Export) -> dict[str, str]:
    """Log the students as an MLflow model and register it."""
    return log_students(student_export, f"{export.register_as}_students_{origin['name']}", export.alias)


def register_classifier(classifier_export: Artifact, origin: dict[str, Any], export: Export) -> dict[str, str]:
    """Log the classifier as an MLflow model and register it."""
    return log_classifier(classifier_export, f"{export.register_as}_classifier_{origin['name']}", export.alias)
