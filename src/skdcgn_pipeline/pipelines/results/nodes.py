"""Nodes of the results stage."""

from typing import Any

import numpy as np

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.parameters import check_parameters
from skdcgn_pipeline.reporting.pictures import draw_releases
from skdcgn_pipeline.students.recipes import ReleasedStudentsRecipe, StudentsArtifact
from skdcgn_pipeline.students.released import released_card, released_students


def adopt_released_students(run: Run, parameters: dict[str, Any]) -> StudentsArtifact:
    """Take the released students of the run's source and variant in place of newly distilled ones."""
    recipe = ReleasedStudentsRecipe(check_parameters(parameters).run_name)
    return run.make(recipe)


def show_releases() -> np.ndarray:
    """Draw speed, size and accuracy of everything that is released, from the cards."""
    return draw_releases([released_card(name) for name in released_students()])
