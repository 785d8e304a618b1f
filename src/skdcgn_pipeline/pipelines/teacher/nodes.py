"""Nodes of the teacher stage."""

import numpy as np

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import Compose, Prepare, Report, Teacher
from skdcgn_pipeline.reporting.pictures import draw_teacher_sheet
from skdcgn_pipeline.teachers.cutouts import CutoutsRecipe
from skdcgn_pipeline.teachers.teacher import open_trained_teacher
from skdcgn_pipeline.teachers.training import TeacherRecipe
from skdcgn_pipeline.vocabulary import CUTOUTS


def fit_teacher(
    run: Run, biased_images: StoredImages, teacher: Teacher, prepare: Prepare, compose: Compose
) -> Artifact:
    """Train a CGN on the biased training images, through the composition's transformations if that is their stage.

    Where the teacher's name is `cutouts`, these images themselves become the teacher.
    """
    if teacher.name == CUTOUTS:
        return run.make(CutoutsRecipe(biased_images, teacher.cutouts))
    recipe = TeacherRecipe(
        biased_images,
        teacher.fit,
        prepare.feature_network,
        seed=run.seed,
        compute=run.compute,
        assets=run.assets,
        transformations=compose.in_teacher_training,
    )
    return run.make(recipe)


def show_trained_teacher(run: Run, trained_teacher: Artifact, report: Report) -> np.ndarray:
    """Draw what the trained teacher makes of random noise."""
    return draw_teacher_sheet(open_trained_teacher(trained_teacher).generator, 2 * report.num_examples, run.seed)
