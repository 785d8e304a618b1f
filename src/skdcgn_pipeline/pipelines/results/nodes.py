"""Nodes of the results stage."""

from typing import Any

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.parameters import check_parameters
from skdcgn_pipeline.students.recipes import ReleasedStudentsRecipe, StudentsArtifact


def adopt_released_students(run: Run, parameters: dict[str, Any]) -> StudentsArtifact:
    """Take the released students of the run's source and variant in place of newly distilled ones."""
    recipe = ReleasedStudentsRecipe(check_parameters(parameters).run_name)
    return run.make(recipe)
