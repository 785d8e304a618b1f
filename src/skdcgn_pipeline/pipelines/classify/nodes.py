"""Nodes of the classify stage."""

from pathlib import Path

import numpy as np
import pandas as pd

from skdcgn_pipeline.data.images import BiasedImages
from skdcgn_pipeline.data.pools import CounterfactualShards
from skdcgn_pipeline.data.samples import SampleShards
from skdcgn_pipeline.io.tracking import log_metrics, log_picture, log_table, recorded_steps
from skdcgn_pipeline.metrics.accuracy import summarise_accuracy
from skdcgn_pipeline.parameters import Classify, Compose, Compute
from skdcgn_pipeline.reporting.pictures import draw_accuracy_chart
from skdcgn_pipeline.studies.classification import compare_training_sets, training_sets
from skdcgn_pipeline.vocabulary import STUDENTS


def train_classifiers(
    store: Path,
    biased_images: BiasedImages,
    teacher_samples: SampleShards,
    student_samples: SampleShards,
    teacher_counterfactuals: CounterfactualShards,
    student_counterfactuals: CounterfactualShards,
    classify: Classify,
    compose: Compose,
    class_lists: dict[str, list[int]],
    seed: int,
    compute: Compute,
    of: str = STUDENTS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train classifiers on originals, teacher's and students' counterfactuals and measure them.

    `of` is what tables call the students.
    """
    samples = {"teacher": teacher_samples, of: student_samples}
    stored = {"teacher": teacher_counterfactuals, of: student_counterfactuals}
    composition = compose.resolved(teacher_samples.num_classes, class_lists)
    sets = training_sets(biased_images, samples, stored, classify.counterfactuals, composition)
    wanted = {of if name == STUDENTS else name for name in classify.trained_on}
    sets = [one for one in sets if one.name in wanted]
    accuracy = compare_training_sets(store, sets, biased_images, classify, seed, compute, recorded_steps)
    log_table(_name("accuracy", of), accuracy)
    return accuracy, accuracy


def _name(name: str, of: str) -> str:
    """Return what a result is logged as: that of the students under its plain name."""
    return name if of == STUDENTS else f"{of}_{name}"


def summarise_classifiers(accuracy: pd.DataFrame, of: str = STUDENTS) -> pd.DataFrame:
    """Summarise accuracy over seeds: mean and 95 % interval."""
    summary = summarise_accuracy(accuracy, ["trained_on", "split", "subset"])
    names = (summary["trained_on"] + "/" + summary["split"] + "/" + summary["subset"]).str.replace(" ", "_")
    log_metrics({f"accuracy/{name}": value for name, value in zip(names, summary["mean_accuracy"], strict=True)})
    log_table(_name("accuracy_summary", of), summary)
    return summary


def show_accuracy(accuracy_summary: pd.DataFrame, of: str = STUDENTS) -> np.ndarray:
    """Draw the accuracy by what classifiers were trained on."""
    picture = draw_accuracy_chart(accuracy_summary)
    log_picture(_name("accuracy", of), picture)
    return picture
