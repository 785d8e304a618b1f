"""Accuracy of classifiers, by split and with the interval of its mean over seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.images.image_set import Split
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.compute import autocast, choose_device, memory_format, place
from skdcgn_pipeline.samples.pixels import from_bytes

CONFIDENCE = 0.95


@torch.no_grad()
def predict_classes(classifier: DigitClassifier, images: Tensor, compute: Compute, batch_size: int = 500) -> Tensor:
    """Return the predicted class [N] of uint8 images [N, 3, H, W]."""
    device = choose_device(compute.device)
    classifier = place(classifier, device, memory_format(compute))
    predictions = []
    for batch in images.split(batch_size):
        with autocast(compute, device):
            logits = classifier(from_bytes(batch).to(device))
        predictions.append(logits.argmax(1).cpu())
    return torch.cat(predictions)


def measure_accuracy(classifier: DigitClassifier, split: Split, compute: Compute) -> list[dict[str, object]]:
    """Measure one classifier on one split.

    Returns:
        A row for the subset `all` and, where some digits collide with their background, one for
        `without collisions`: `subset`, `accuracy` in [0, 1] and `num_images`.
    """
    return _accuracy_of(predict_classes(classifier, split.images, compute), split)


def measure_classifier(
    classifier: DigitClassifier, split: Split, compute: Compute, num_classes: int
) -> tuple[list[dict[str, object]], list[list[int]]]:
    """Measure one classifier on one split, class by class.

    Returns:
        The rows of `measure_accuracy`, and the confusion matrix: images by true class (rows) and
        predicted class (columns).
    """
    predicted = predict_classes(classifier, split.images, compute)
    pairs = torch.bincount(split.labels * num_classes + predicted, minlength=num_classes**2)
    return _accuracy_of(predicted, split), pairs.view(num_classes, num_classes).tolist()


def _accuracy_of(predicted: Tensor, split: Split) -> list[dict[str, object]]:
    correct = (predicted == split.labels).numpy()
    rows: list[dict[str, object]] = [
        {"subset": "all", "accuracy": float(correct.mean()), "num_images": len(correct)},
    ]
    if split.collision.any():
        visible = correct[~split.collision.numpy()]
        rows.append({"subset": "without collisions", "accuracy": float(visible.mean()), "num_images": len(visible)})
    return rows


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, standard deviation, and half the 95 % interval of the mean (Student's t).

    The interval is NaN for a single value.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()), math.nan, math.nan
    deviation = float(values.std(ddof=1))
    half_width = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * deviation / math.sqrt(len(values))
    return float(values.mean()), deviation, float(half_width)


def summarise_accuracy(accuracy: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Summarise over seeds: mean, standard deviation, 95 % interval and number of seeds per group."""
    rows = []
    for key, group in accuracy.groupby(by, sort=False):
        mean, deviation, half_width = mean_interval(group["accuracy"].to_numpy())
        rows.append(
            dict(zip(by, key, strict=True))
            | {
                "mean_accuracy": mean,
                "standard_deviation": deviation,
                "interval_low": mean - half_width,
                "interval_high": mean + half_width,
                "num_seeds": len(group),
                "num_images": int(group["num_images"].iloc[0]),
            }
        )
    return pd.DataFrame(rows)
