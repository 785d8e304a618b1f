"""How classifiers do on corrupted test images, see `images.corruptions`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.classifiers.accuracy import (
    ENOUGH_IMAGES,
    Row,
    accuracy_metrics,
    measure_predictions,
    predict_split,
    summarise_accuracy,
)
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.classifiers.training import Classifier
from skdcgn_pipeline.classifiers.training_sets import TrainingSet
from skdcgn_pipeline.images.corruptions import STRENGTHS, corrupt_split
from skdcgn_pipeline.images.image_set import Split, spread_rows
from skdcgn_pipeline.parameters import CorruptionName
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.engine import run_side_by_side

CLEAN, MEAN, STRONGEST = "clean", "mean", "strongest"
COLUMNS = ["trained_on", "seed", "split", "corruption", "strength", "accuracy", "num_images"]


def measure_corruptions(classification: Classification, sets: Sequence[TrainingSet]) -> pd.DataFrame:
    """Measure classifiers on test images, as they are and corrupted as `classify.corruptions` says.

    Trained classifiers and what was measured of them are reused. At most `ENOUGH_IMAGES` of a split are looked at, the
    same by all classifiers. Splits that tell groups of classes instead of classes, such as cue conflicts, are left out.

    Returns:
        Rows of `trained_on`, `seed`, `split`, `corruption` (or `clean`), `strength` (from 1 to 5, of clean images 0),
        `accuracy` in [0, 1] and `num_images`.
    """
    opened = [classification.splits[name]() for name in classification.confused_splits]
    plain = [split for split in opened if classification.images.class_groups.keys().isdisjoint(split.attributes)]
    shown = [split[spread_rows(split, ENOUGH_IMAGES)] for split in plain]

    def rows_of(training_set: TrainingSet, number: int) -> list[Row]:
        trained = classification.train(training_set, number)
        told = {"trained_on": training_set.name, "seed": number}
        return [
            told | {"split": split.name, "corruption": corruption or CLEAN, "strength": strength} | row
            for split in shown
            for corruption in (None, *classification.settings.corruptions)
            for strength, row in _measure(classification, *trained, split, corruption)
        ]

    calls = [partial(rows_of, each, number) for each in sets for number in range(classification.settings.num_seeds)]
    rows = run_side_by_side(calls, choose_device(classification.run.compute.device))
    return pd.DataFrame([row for of_classifier in rows for row in of_classifier], columns=COLUMNS)


def _measure(
    classification: Classification,
    artifact: Artifact,
    classifier: Classifier,
    split: Split,
    corruption: CorruptionName | None,
) -> list[tuple[int, Row]]:
    """Return what a classifier does on a split by strength, now or before: at 0 as it is, from 1 on corrupted."""
    seed, compute = classification.run.seed, classification.settings.fit.computing(classification.run.compute)
    variants, inputs = {0: split}, {"images": classification.images.artifact.identity, "num_images": len(split)}
    if corruption is not None:
        values = STRENGTHS[corruption]
        variants = {number: corrupt_split(split, corruption, number, seed) for number in range(1, 1 + len(values))}
        inputs |= {"corruption": corruption, "strengths": values, "seed": seed}

    def measure() -> list[Row]:
        # The first row is about all images, by all heads together.
        return [measure_predictions(predict_split(classifier, each, compute), each)[0] for each in variants.values()]

    measured = classification.kept("corrupted", artifact, {"split": split.name, **inputs}, measure)
    return [*zip(variants, measured, strict=True)]


def summarise_corruptions(corrupted: pd.DataFrame) -> pd.DataFrame:
    """Summarise over seeds what `measure_corruptions` gives.

    Returns:
        Rows of `trained_on`, `split`, `strengths` (`mean`, over all of a corruption, or `strongest`), `corruption`
        (or `clean`, in both) and what `summarise_accuracy` gives.
    """
    keys = ["trained_on", "seed", "split", "corruption"]
    by_classifier = corrupted.groupby(keys, sort=False)
    means = by_classifier[["accuracy", "num_images"]].mean().reset_index()
    strongest = corrupted[corrupted["strength"] == by_classifier["strength"].transform("max")]
    both = pd.concat([means.assign(strengths=MEAN), strongest.assign(strengths=STRONGEST)])
    return summarise_accuracy(both, ["trained_on", "split", "strengths", "corruption"])


def corruption_metrics(summary: pd.DataFrame) -> dict[str, float]:
    """Return mean accuracies of a summary by name: accuracy/<trained on>/<split>/<corruption>_<strengths>."""
    corrupted = summary[summary["corruption"] != CLEAN]
    return accuracy_metrics(corrupted.assign(subset=corrupted["corruption"] + " " + corrupted["strengths"]))
