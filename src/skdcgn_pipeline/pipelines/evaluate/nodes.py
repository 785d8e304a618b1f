"""Nodes of the evaluate stage."""

import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.classifiers import evaluation
from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.parameters import Evaluate, Images
from skdcgn_pipeline.reporting.pictures import draw_confusions


def evaluate_classifier(
    run: Run, images: Images, evaluate: Evaluate, invariant_classifier: Artifact | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure a classifier on every split of a folder."""
    classifier = InvariantClassifier.from_pretrained(
        evaluation.classifier_in(evaluate.classifier, invariant_classifier)
    )
    stored = run.make(evaluation.folder_of_classes(classifier, images))
    measured = evaluation.evaluate_classifier(classifier, stored, run.compute)
    return measured.accuracy, measured.confusion


def show_confusion(confusion: pd.DataFrame) -> np.ndarray:
    """Draw what the classifier confuses, split by split."""
    by_split = {str(name): rows for name, rows in confusion.groupby("split", sort=False)}
    counts = {name: rows.filter(like="predicted_").to_numpy() for name, rows in by_split.items()}
    labels = [str(name).removeprefix("predicted_") for name in confusion.filter(like="predicted_")]
    return draw_confusions(counts, labels, "Share of each class's images, in %")
