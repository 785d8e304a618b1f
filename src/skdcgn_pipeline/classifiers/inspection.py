"""Look into trained classifiers: what they confuse, whether alike, and which mechanism their answers follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.classifiers.accuracy import ENOUGH_IMAGES, Row, confusion_rows
from skdcgn_pipeline.classifiers.attention import NEITHER, count_followed
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.classifiers.networks import Classifier
from skdcgn_pipeline.classifiers.training_sets import TrainingSet
from skdcgn_pipeline.metrics.error_consistency import ERROR_COLUMNS, compare_errors
from skdcgn_pipeline.parameters import Composition
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.vocabulary import MECHANISMS

# By training set, the classifiers of all seeds and where each is stored.
Trained = Mapping[str, Sequence[tuple[Artifact, Classifier]]]


def open_classifiers(classification: Classification, sets: Sequence[TrainingSet]) -> Trained:
    """Return the classifiers of training sets, trained now or before; raises like `Classification.train`."""
    numbers = range(classification.settings.num_seeds)
    return {each.name: [classification.train(each, number) for number in numbers] for each in sets}


def confusions(classification: Classification, trained: Trained) -> pd.DataFrame:
    """Tell what classifiers take the images of `Classification.confused_splits` for.

    Returns:
        A row per split, training set and class: `trained_on`, `split`, and what `confusion_rows` gives of the images
        of all seeds together.
    """
    rows = list[Row]()
    for split in classification.confused_splits:
        for name, classifiers in trained.items():
            counts = np.sum([classification.measured(*each, split)["confusion"] for each in classifiers], axis=0)
            counted = confusion_rows(counts.tolist(), classification.images.class_names)
            rows += [{"trained_on": name, "split": split} | row for row in counted]
    return pd.DataFrame(rows)


def shared_errors(classification: Classification, trained: Trained) -> pd.DataFrame:
    """Tell how far classifiers err on the same images of `Classification.confused_splits`.

    Returns:
        A row per split and two training sets, or one of which there are several classifiers: `split`, and what
        `error_consistency.compare_errors` gives.
    """
    rows = list[Row]()
    for split in classification.confused_splits:
        told = {name: [classification.measured(*each, split)["correct"] for each in of] for name, of in trained.items()}
        correct = {name: [np.array([*answers]) == "1" for answers in of] for name, of in told.items()}
        rows += [{"split": split} | row for row in compare_errors(correct)]
    return pd.DataFrame(rows, columns=ERROR_COLUMNS)


def followed_mechanisms(classification: Classification, trained: Trained, heldout: SampleShards | None) -> pd.DataFrame:
    """Tell whose class classifiers name in counterfactuals of samples that nothing was trained on.

    Shape, texture and background are of classes drawn independently, whatever is trained on.

    Args:
        classification: Budget, store and images' size.
        trained: The classifiers.
        heldout: The samples, if there are any.

    Returns:
        A row per training set: `trained_on`, the share of answers, in [0, 1], that follow `shape`, `texture`,
        `background` or `none`, over all seeds, and `num_images` whose three classes differ. There are no rows without
        samples, where `num_counterfactuals` is 0, or with fewer than three classes.
    """
    rows, settings = list[Row](), classification.settings
    if heldout is not None and (number := min(settings.num_counterfactuals, ENOUGH_IMAGES)):
        compute = settings.fit.computing(classification.run.compute)
        inputs, batches = classification.composed(heldout, Composition(), number, "followed-mechanisms")
        for name, classifiers in trained.items():
            counts = Counter[str]()
            for artifact, classifier in classifiers:
                count = partial(lambda network: count_followed(network, batches(), compute), classifier)
                counts.update(classification.kept("followed", artifact, inputs, count))
            if total := counts.total():
                shares = {mechanism: count / total for mechanism, count in counts.items()}
                rows.append({"trained_on": name} | shares | {"num_images": total // len(classifiers)})
    return pd.DataFrame(rows, columns=["trained_on", *MECHANISMS, NEITHER, "num_images"])
