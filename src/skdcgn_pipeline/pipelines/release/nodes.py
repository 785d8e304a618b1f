"""Nodes of the release stage."""

from typing import Any

import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.parameters import check_parameters
from skdcgn_pipeline.reporting.release import Release, release_card
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher


def release_students(
    run: Run,
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    student_comparison: pd.DataFrame,
    accuracy_summary: pd.DataFrame,
    benchmark: pd.DataFrame,
    parameters: dict[str, Any],
) -> Artifact:
    """Write the students' weights, card and page."""
    settings = check_parameters(parameters)
    card = release_card(settings, students, teacher.identity, student_comparison, accuracy_summary, benchmark)
    return run.make(Release(students, card))
