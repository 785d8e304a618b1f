"""Nodes of the teacher stage."""

from pathlib import Path

import numpy as np

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.images.biased import BiasedImages
from skdcgn_pipeline.io.tracking import log_picture, recorded_steps
from skdcgn_pipeline.parameters import Compose, Compute, Prepare, Report, Teacher
from skdcgn_pipeline.reporting.pictures import draw_teacher_sheet
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.teachers.teacher import load_teacher
from skdcgn_pipeline.teachers.training import WEIGHTS_FILE, TeacherRecipe


def fit_teacher(
    store: Path,
    biased_images: BiasedImages,
    teacher: Teacher,
    prepare: Prepare,
    compose: Compose,
    seed: int,
    compute: Compute,
    assets: str,
) -> Artifact:
    """Train a CGN on the biased training images, through the composition's transformations if that is their stage."""
    recipe = TeacherRecipe(
        biased_images,
        teacher.fit,
        prepare.feature_network,
        seed=seed,
        compute=compute,
        assets=assets,
        transformations=compose.in_teacher_training,
    )
    with recorded_steps("teacher") as record, listening(lambda _, step, losses: record(step, dict(losses))):
        return build_in(store, recipe)


def show_trained_teacher(trained_teacher: Artifact, report: Report, seed: int) -> np.ndarray:
    """Draw what the trained teacher makes of random noise."""
    cgn = load_teacher("mnist_cgn", trained_teacher.path(WEIGHTS_FILE))
    picture = draw_teacher_sheet(cgn, 2 * report.num_examples, seed)
    log_picture("trained_teacher", picture)
    return picture
