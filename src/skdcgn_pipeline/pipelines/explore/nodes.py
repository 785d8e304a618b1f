"""Nodes of the explore stage."""

from pathlib import Path
from typing import Any

import pandas as pd

from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.explorer.bundle import build_explorer
from skdcgn_pipeline.images.biased import BiasedImages
from skdcgn_pipeline.io.tracking import recorded_steps
from skdcgn_pipeline.parameters import check_parameters
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.distillation import StudentsArtifact
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher


def write_explorer(
    store: Path,
    classifier_store: Path,
    counterfactual_store: Path,
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    student_samples: SampleShards,
    biased_images: BiasedImages,
    student_comparison: pd.DataFrame,
    parameters: dict[str, Any],
) -> Artifact:
    """Put teacher, students and two classifiers into the folder that the explorer opens."""
    return build_explorer(
        store,
        classifier_store,
        counterfactual_store,
        teacher,
        students,
        student_samples,
        biased_images,
        student_comparison,
        check_parameters(parameters),
        recorded_steps,
    )
