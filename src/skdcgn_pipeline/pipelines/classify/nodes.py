"""Nodes of the classify stage."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from skdcgn_pipeline.classifiers.accuracy import summarise_accuracy
from skdcgn_pipeline.classifiers.attention import grad_cam
from skdcgn_pipeline.classifiers.classification import (
    TrainingSet,
    originals,
    splits_of,
    tabulate_confusions,
    train_and_measure,
    train_classifier,
    training_sets,
)
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.counterfactuals.pools import CounterfactualShards
from skdcgn_pipeline.images.image_set import splits_with_role
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.io.tracking import as_markdown, log_metrics, log_note, log_picture, log_table
from skdcgn_pipeline.parameters import Classify, Compose, Compute, Report
from skdcgn_pipeline.reporting.pictures import (
    draw_accuracy_chart,
    draw_attention,
    draw_confusions,
    pick_examples,
)
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.vocabulary import STUDENTS


def train_classifiers(
    store: Path,
    biased_images: StoredImages,
    classify: Classify,
    compose: Compose,
    class_lists: dict[str, list[int]],
    seed: int,
    compute: Compute,
    teacher_samples: SampleShards | None = None,
    student_samples: SampleShards | None = None,
    teacher_counterfactuals: CounterfactualShards | None = None,
    student_counterfactuals: CounterfactualShards | None = None,
    of: str = STUDENTS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train classifiers on originals, teacher's and students' counterfactuals and measure them.

    Without samples, on originals alone. `of` is what tables call the students.
    """
    samples = {"teacher": teacher_samples, of: student_samples}
    stored = {"teacher": teacher_counterfactuals, of: student_counterfactuals}
    sets = _sets_of(classify, compose, class_lists, biased_images, samples, stored, of)
    splits = splits_of(biased_images)
    accuracy = train_and_measure(store, sets, biased_images, splits, classify.fit, classify.num_seeds, seed, compute)
    log_table(_name("accuracy", of), accuracy)
    return accuracy, accuracy


def look_into_classifiers(
    store: Path,
    biased_images: StoredImages,
    classify: Classify,
    compose: Compose,
    class_lists: dict[str, list[int]],
    seed: int,
    compute: Compute,
    report: Report,
    accuracy: pd.DataFrame,
    teacher_samples: SampleShards | None = None,
    student_samples: SampleShards | None = None,
    teacher_counterfactuals: CounterfactualShards | None = None,
    student_counterfactuals: CounterfactualShards | None = None,
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Count what the trained classifiers confuse and draw where they look, on the first test split."""
    samples = {"teacher": teacher_samples, STUDENTS: student_samples}
    stored = {"teacher": teacher_counterfactuals, STUDENTS: student_counterfactuals}
    sets = _sets_of(classify, compose, class_lists, biased_images, samples, stored)
    split = splits_with_role(biased_images, "test")[0]
    confusion = tabulate_confusions(store, sets, biased_images, split, classify, seed, compute)
    counts = confusion.filter(like="predicted_")
    matrices = {str(name): rows.to_numpy() for name, rows in counts.groupby(confusion["trained_on"], sort=False)}
    images, labels = pick_examples(biased_images.split(split), report.num_examples)
    classifiers = {
        training_set.name: train_classifier(store, training_set, classify.fit, 0, seed, compute)[1]
        for training_set in sets
    }
    pictures = {
        "confusions": draw_confusions(matrices, split),
        "attention": draw_attention(images, {n: _looks_at(c, images) for n, c in classifiers.items()}, labels),
    }
    for name, picture in pictures.items():
        log_picture(name, picture)
    log_table("confusion", confusion)
    return confusion, pictures["confusions"], pictures["attention"]


def _sets_of(
    classify: Classify,
    compose: Compose,
    class_lists: dict[str, list[int]],
    biased_images: StoredImages,
    samples: dict[str, SampleShards | None],
    stored: dict[str, CounterfactualShards | None],
    of: str = STUDENTS,
) -> list[TrainingSet]:
    """Return the training sets that `classify.trained_on` asks for; `of` is what tables call the students."""
    pools = {name: shards for name, shards in samples.items() if shards is not None}
    if not pools:
        return [originals(biased_images)]
    wanted = {of if name == STUDENTS else name for name in classify.trained_on}
    composition = compose.resolved(pools["teacher"].num_classes, class_lists)
    images = {name: shards for name, shards in stored.items() if shards is not None}
    sets = training_sets(biased_images, pools, images, classify.counterfactuals, composition)
    return [training_set for training_set in sets if training_set.name in wanted]


def _looks_at(classifier: DigitClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the predicted classes and the heat that speaks for each."""
    with torch.no_grad():
        predicted = classifier(images).argmax(1)
    return predicted, grad_cam(classifier, images, predicted)


def _name(name: str, of: str) -> str:
    """Return what a result is logged as: that of the students under its plain name."""
    return name if of == STUDENTS else f"{of}_{name}"


def _with(of: str) -> str:
    """Return the end of a title that tells which students, where they are not the distilled ones."""
    return "" if of == STUDENTS else f", {of}"


def summarise_classifiers(accuracy: pd.DataFrame, of: str = STUDENTS) -> pd.DataFrame:
    """Summarise accuracy over seeds: mean and 95 % interval."""
    summary = summarise_accuracy(accuracy, ["trained_on", "split", "subset"])
    names = (summary["trained_on"] + "/" + summary["split"] + "/" + summary["subset"]).str.replace(" ", "_")
    log_metrics({f"accuracy/{name}": value for name, value in zip(names, summary["mean_accuracy"], strict=True)})
    log_table(_name("accuracy_summary", of), summary)
    shown = ["trained_on", "split", "subset", "mean_accuracy", "interval_low", "interval_high", "num_seeds"]
    log_note("Accuracy of the invariant classifiers" + _with(of), as_markdown(summary[shown]))
    return summary


def show_accuracy(accuracy_summary: pd.DataFrame, of: str = STUDENTS) -> np.ndarray:
    """Draw the accuracy by what classifiers were trained on."""
    picture = draw_accuracy_chart(accuracy_summary)
    log_picture(_name("accuracy", of), picture)
    return picture
