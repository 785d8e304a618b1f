"""Train digit classifiers on the originals, on the teacher's and on the students' counterfactuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.artifacts.store import Artifact, build_json
from skdcgn_pipeline.classifiers.accuracy import measure_accuracy
from skdcgn_pipeline.classifiers.accuracy import measure_classifier as measure_by_class
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.classifiers.training import ClassifierRecipe
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool, CounterfactualShards, CounterfactualsRecipe
from skdcgn_pipeline.images.batches import draw_from_images, draw_from_split
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.images.image_set import Split
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import ClassifierFit, Classify, Composition, Compute, Parameters
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.engine import run_side_by_side
from skdcgn_pipeline.runtime.seeding import derive_seed
from skdcgn_pipeline.runtime.threads import on_one_thread, once
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.vocabulary import STUDENTS

ORIGINALS = "originals"
COLUMNS = ["trained_on", "seed", "split", "subset", "accuracy", "num_images", "group", "calibration_error"]


@dataclass(frozen=True)
class TrainingSet:
    """Images that classifiers can be trained on.

    Attributes:
        name: What the tables call it.
        inputs: What the images depend on, seeds aside.
        num_classes: Number of classes.
        source: Seed -> function that draws batches.
    """

    name: str
    inputs: dict[str, Any]
    num_classes: int
    source: Callable[[int], DrawBatch]


def originals(biased_images: StoredImages) -> TrainingSet:
    """Return the training images, which may be biased."""
    split = once(partial(biased_images.split, "train"))
    inputs = {"biased_images": biased_images.artifact.identity, "split": "train"}
    return TrainingSet(
        ORIGINALS, inputs, biased_images.num_classes, lambda seed: draw_from_split(split(), seed, "classifier-rows")
    )


def counterfactuals_on_the_fly(
    name: str, samples: SampleShards, composition: Composition, pool: Callable[[], CounterfactualPool]
) -> TrainingSet:
    """Return fresh counterfactuals composed while training; `pool` gives the samples in memory."""
    inputs = {"samples": samples.artifact.identity, "composition": composition.identity()}
    return TrainingSet(
        name,
        inputs,
        samples.num_classes,
        lambda seed: pool().draw_batch(composition, seed, "classifier-counterfactuals"),
    )


def stored_counterfactuals(name: str, shards: CounterfactualShards, num_classes: int) -> TrainingSet:
    """Return stored counterfactuals."""
    images = once(shards.read_labelled)

    def source(seed: int) -> DrawBatch:
        composites, labels = images()
        return draw_from_images(composites, labels[:, 0], seed, "classifier-rows")

    return TrainingSet(name, {"counterfactuals": shards.artifact.identity}, num_classes, source)


def classifier_seed(seed: int, number: int) -> int:
    """Return the seed of the classifier with this number; the same for every training set, so pairs compare."""
    return derive_seed(seed, "classifier", number)


def train_and_measure(
    store: Path,
    sets: Sequence[TrainingSet],
    biased_images: StoredImages,
    splits: Mapping[str, Any],
    settings: ClassifierFit,
    num_seeds: int,
    seed: int,
    compute: Compute,
) -> pd.DataFrame:
    """Train one classifier per training set and seed, side by side, and measure them on unbiased splits.

    Finished classifiers and measures are reused; a killed training continues.

    Args:
        store: Directory of classifiers and their measures.
        sets: What to train on.
        biased_images: Where the splits come from.
        splits: Split name -> function that reads it.
        settings: Budget of each classifier.
        num_seeds: How many classifiers of each training set.
        seed: Base seed.
        compute: Device and precision.

    Returns:
        Rows with `trained_on`, `seed`, `split`, and what `measure_accuracy` gives, in the order of the training sets
        and their seeds.
    """

    def measured(training_set: TrainingSet, number: int) -> list[dict[str, Any]]:
        artifact, classifier = train_classifier(store, training_set, settings, number, seed, compute)
        rows = measure_classifier(store, artifact, classifier, biased_images, splits, compute)
        return [{"trained_on": training_set.name, "seed": number} | row for row in rows]

    calls = [partial(measured, training_set, number) for training_set in sets for number in range(num_seeds)]
    rows = run_side_by_side(calls, choose_device(compute.device))
    return pd.DataFrame([row for classifier_rows in rows for row in classifier_rows], columns=COLUMNS)


def train_classifier(
    store: Path,
    training_set: TrainingSet,
    settings: ClassifierFit,
    number: int,
    seed: int,
    compute: Compute,
) -> tuple[Artifact, DigitClassifier]:
    """Return the classifier with this number of a training set, trained now or before; see `train_and_measure`."""
    set_seed = classifier_seed(seed, number)
    recipe = ClassifierRecipe(
        training_set.inputs,
        partial(training_set.source, set_seed),
        settings,
        set_seed,
        compute,
        training_set.num_classes,
        name=f"classifier/{training_set.name}/seed_{number}",
        title=f"classifier on {training_set.name}, seed {number}",
    )
    with on_one_thread(choose_device(compute.device)):
        return build_in(store, recipe)


def measure_classifier(
    store: Path,
    artifact: Artifact,
    classifier: DigitClassifier,
    biased_images: StoredImages,
    splits: Mapping[str, Any],
    compute: Compute,
) -> list[dict[str, Any]]:
    """Return the accuracy of a classifier by `split` and `subset`, measured or as it was found before."""
    inputs = {
        "kind": "accuracy",
        "version": 2,
        "classifier": artifact.identity,
        "biased_images": biased_images.artifact.identity,
        "splits": sorted(splits),
    }

    def measure() -> list[dict[str, object]]:
        return [
            {"split": name} | row
            for name, read in splits.items()
            for row in measure_accuracy(classifier, read(), compute, biased_images.class_names)
        ]

    return build_json(store.parent / "accuracy", inputs, measure)


def splits_of(biased_images: StoredImages) -> dict[str, Callable[[], Any]]:
    """Return the splits to measure on: name -> function that reads it once."""
    return {name: once(partial(biased_images.split, name)) for name in biased_images.reported_splits}


def training_sets(
    biased_images: StoredImages,
    samples: Mapping[str, SampleShards],
    stored: Mapping[str, CounterfactualShards],
    counterfactuals: str,
    composition: Composition,
) -> list[TrainingSet]:
    """Return the originals and the counterfactuals of each source, `on_the_fly` or `stored`."""
    sets = [originals(biased_images)]
    for name, own in samples.items():
        if counterfactuals == "stored":
            sets.append(stored_counterfactuals(name, stored[name], own.num_classes))
        else:
            pool = once(partial(CounterfactualPool.of, own))
            sets.append(counterfactuals_on_the_fly(name, own, composition, pool))
    return sets


def take_classifier(
    classifier_store: Path,
    counterfactual_store: Path,
    trained_on: str,
    samples: SampleShards,
    biased_images: StoredImages,
    parameters: Parameters,
    number: int = 0,
) -> tuple[Artifact, InvariantClassifier, list[dict[str, Any]]]:
    """Return a classifier to take away: the one that `train_and_measure` trained, or a new one.

    Args:
        classifier_store, counterfactual_store: Directories of classifiers and of stored counterfactuals.
        trained_on: `originals` or `students`.
        samples: The students' pool.
        biased_images: The originals, and what it is measured on.
        parameters: All settings.
        number: Which of the classifiers of this training set.

    Returns:
        Where it is stored, the classifier, and its accuracy by split and subset.
    """
    classify, compose, seed = parameters.classify, parameters.compose, parameters.seed
    composition = compose.resolved(samples.num_classes, parameters.class_lists)
    stored = {}
    if classify.counterfactuals == "stored":
        amount = compose.num_images, compose.rows_per_shard
        stored[STUDENTS] = build_in(counterfactual_store, CounterfactualsRecipe(samples, composition, *amount, seed))
    sets = training_sets(biased_images, {STUDENTS: samples}, stored, classify.counterfactuals, composition)
    (own_set,) = [one for one in sets if one.name == trained_on]
    compute = parameters.compute
    artifact, network = train_classifier(classifier_store, own_set, classify.fit, number, seed, compute)
    accuracy = measure_classifier(classifier_store, artifact, network, biased_images, splits_of(biased_images), compute)
    labels = [str(label) for label in range(own_set.num_classes)]
    return artifact, InvariantClassifier.of(network, labels, samples.image_size), accuracy


def tabulate_confusions(
    store: Path,
    sets: list[TrainingSet],
    biased_images: StoredImages,
    split: str,
    settings: Classify,
    seed: int,
    compute: Compute,
) -> pd.DataFrame:
    """Count what the classifiers of `train_and_measure` take the images of a split for.

    Returns:
        A row per training set and class: `trained_on`, `split`, `label` and `predicted_<k>`, the images of
        all seeds together.
    """
    read = once(partial(biased_images.split, split))
    rows: list[dict[str, Any]] = []
    for one in sets:
        counts = np.zeros((one.num_classes, one.num_classes), int)
        for number in range(settings.num_seeds):
            artifact, classifier = train_classifier(store, one, settings.fit, number, seed, compute)
            inputs = {
                "kind": "confusion",
                "classifier": artifact.identity,
                "biased_images": biased_images.artifact.identity,
                "split": split,
            }
            measure = partial(_count, classifier, read, compute, one.num_classes)
            counts += np.array(build_json(store.parent / "confusion", inputs, measure))
        rows += [
            {"trained_on": one.name, "split": split, "label": label}
            | {f"predicted_{k}": int(count) for k, count in enumerate(line)}
            for label, line in enumerate(counts)
        ]
    return pd.DataFrame(rows)


def _count(
    classifier: DigitClassifier, read: Callable[[], Split], compute: Compute, num_classes: int
) -> list[list[int]]:
    return measure_by_class(classifier, read(), compute, num_classes)[1]
