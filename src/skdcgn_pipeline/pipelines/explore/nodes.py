"""Nodes of the explore stage."""

from typing import Any

import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.explorer.bundle import CLASSIFIER_NUMBER, TRAINED_ON, explorer_of_run
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import check_parameters
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher


def write_explorer(
    run: Run,
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    student_samples: SampleShards,
    biased_images: StoredImages | None,
    student_comparison: pd.DataFrame,
    parameters: dict[str, Any],
) -> Artifact:
    """Put teacher, students and the first classifier of originals and of counterfactuals, if any, into one folder."""
    settings, classifiers = check_parameters(parameters), {}
    if biased_images is not None:
        classification = Classification(run, biased_images, settings.classify)
        composition = settings.compose.resolved(student_samples.num_classes, settings.class_lists)
        classifiers = {
            name: classification.take(name, student_samples, settings.compose, composition, CLASSIFIER_NUMBER)
            for name in TRAINED_ON
        }
    return run.make(explorer_of_run(teacher, students, classifiers, student_comparison, settings))
