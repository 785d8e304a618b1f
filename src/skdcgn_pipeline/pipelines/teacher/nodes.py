"""Nodes of the teacher stage."""

from pathlib import Path

import numpy as np

from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.images.biased import BiasedImages
from skdcgn_pipeline.io.tracking import log_picture, recorded_steps
from skdcgn_pipeline.parameters import Compose, Compute, Prepare, Report, Teacher
from skdcgn_pipeline.reporting.pictures import draw_teacher_sheet
from skdcgn_pipeline.teachers.teacher import load_teacher
from skdcgn_pipeline.teachers.training import WEIGHTS_FILE, build_teacher


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
    with recorded_steps("teacher") as record:
        return build_teacher(
            store,
            biased_images,
            teacher.fit,
            prepare.feature_network,
            seed,
            compute,
            assets,
            record,
            compose.in_teacher_training,
        )


def show_trained_teacher(trained_teacher: Artifact, report: Report, seed: int) -> np.ndarray:
    """Draw what the trained teacher makes of random noise."""
    cgn = load_teacher("mnist_cgn", trained_teacher.path(WEIGHTS_FILE))
    picture = draw_teacher_sheet(cgn, 2 * report.num_examples, seed)
    log_picture("trained_teacher", picture)
    return picture
