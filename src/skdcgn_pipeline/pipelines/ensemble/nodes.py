"""Nodes of the ensemble stage."""

from pathlib import Path

import numpy as np
import pandas as pd

from skdcgn_pipeline.classifiers import ensemble_study as study
from skdcgn_pipeline.classifiers.ensemble_study import EnsembleImages, EnsemblesArtifact
from skdcgn_pipeline.io.tracking import log_metrics, log_picture, log_table
from skdcgn_pipeline.parameters import Compose, Compute, Ensemble
from skdcgn_pipeline.reporting.pictures import draw_invariance
from skdcgn_pipeline.samples.drawing import SampleShards


def read_image_folders(store: Path, ensemble: Ensemble, assets: str) -> tuple[EnsembleImages, pd.DataFrame]:
    """List the folders of real images and read every image once."""
    images = study.read_images(store, ensemble, assets)
    table = images.describe()
    log_table("image_folders", table)
    return images, table


def train_ensembles(
    store: Path,
    image_folders: EnsembleImages,
    teacher_samples: SampleShards,
    student_samples: SampleShards,
    ensemble: Ensemble,
    compose: Compose,
    class_lists: dict[str, list[int]],
    seed: int,
    compute: Compute,
) -> EnsemblesArtifact:
    """Train ensembles on real images and on the counterfactuals of teacher or students."""
    samples = {"teacher": teacher_samples, "students": student_samples}
    composition = compose.resolved(teacher_samples.num_classes, class_lists)
    return study.train_ensembles(store, image_folders, samples, composition, ensemble, seed, compute)


def measure_ensembles(
    store: Path,
    ensembles: EnsemblesArtifact,
    image_folders: EnsembleImages,
    heldout_samples: SampleShards,
    ensemble: Ensemble,
    compose: Compose,
    class_lists: dict[str, list[int]],
    seed: int,
    compute: Compute,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure accuracy, shape bias, background gap, and whether each head knows its mechanism."""
    composition = compose.resolved(heldout_samples.num_classes, class_lists)
    table = study.measure_ensembles(
        store, ensembles, image_folders, heldout_samples, composition, ensemble, seed, compute
    )
    log_metrics(study.metrics_of(table))
    log_table("invariance", table)
    return table, table


def show_invariance(invariance: pd.DataFrame) -> np.ndarray:
    """Draw what every head reached."""
    picture = draw_invariance(invariance)
    log_picture("invariance", picture)
    return picture
