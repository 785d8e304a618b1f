"""Nodes of the ablation stage."""

from pathlib import Path

import numpy as np
import pandas as pd

from skdcgn_pipeline.data.images import BiasedImages
from skdcgn_pipeline.data.samples import SampleShards
from skdcgn_pipeline.io.tracking import log_picture, log_table, nested_cell
from skdcgn_pipeline.parameters import Ablation, Compose, Compute
from skdcgn_pipeline.reporting.pictures import draw_ablation_heat_map
from skdcgn_pipeline.studies.ablation import run_ablation, summarise_ablation


def ablate_composition(
    store: Path,
    biased_images: BiasedImages,
    teacher_samples: SampleShards,
    student_samples: SampleShards,
    ablation: Ablation,
    compose: Compose,
    seed: int,
    compute: Compute,
) -> pd.DataFrame:
    """Train and measure the classifiers of every cell of the study."""
    samples = {"teacher": teacher_samples, "students": student_samples}[ablation.source]
    return run_ablation(store, samples, biased_images, ablation, compose.composition, seed, compute, nested_cell)


def summarise_cells(ablation_accuracy: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Summarise cells over seeds and compare them with the reference."""
    summary = summarise_ablation(ablation_accuracy)
    log_table("ablation", summary)
    return summary, summary


def show_ablation(ablation_summary: pd.DataFrame) -> np.ndarray:
    """Draw the difference of every cell to the reference."""
    picture = draw_ablation_heat_map(ablation_summary)
    log_picture("ablation", picture)
    return picture
