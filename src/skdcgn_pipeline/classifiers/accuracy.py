"""Accuracy of classifiers, by split and with the interval of its mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from skdcgn_pipeline.images.image_set import ImageRows, Split
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.compute import autocast, choose_device, memory_format, place
from skdcgn_pipeline.samples.pixels import from_bytes

CONFIDENCE = 0.95
FEW_CLASSES = 10  # with more, the five most probable classes are looked at, too


@torch.no_grad()
def predict_logits(classifier: nn.Module, images: ImageRows, compute: Compute, batch_size: int = 500) -> Tensor:
    """Return the logits [N, K], in single precision, of images, read batch by batch."""
    device = choose_device(compute.device)
    classifier = place(classifier, device, memory_format(compute))
    logits = []
    for rows in torch.arange(len(images)).split(batch_size):
        with autocast(compute, device):
            logits.append(classifier(from_bytes(images.take(rows)).to(device)).float().cpu())
    return torch.cat(logits)


def measure_accuracy(
    classifier: nn.Module, split: Split, compute: Compute, class_names: Sequence[str] = ()
) -> list[dict[str, object]]:
    """Measure one classifier on one split; what is measured follows from what is known of the images.

    Args:
        classifier: Gives logits [N, K].
        split: The images.
        compute: Device and precision.
        class_names: Name of each class; the worst group is called by them.

    Returns:
        Rows of `subset`, `accuracy` in [0, 1] and `num_images`: for the subset `all`, with the `calibration_error`;
        where some objects collide with their background, `without collisions`; where there are groups, `worst group`,
        which `group` names (Sagawa et al. 2020, arXiv 1911.08731); and with more than ten classes `top 5`, the share
        of images whose class is among the five most probable ones.
    """
    logits = predict_logits(classifier, split.rows, compute)
    return _accuracy_of(logits, split, class_names)


def measure_classifier(
    classifier: nn.Module, split: Split, compute: Compute, num_classes: int
) -> tuple[list[dict[str, object]], list[list[int]]]:
    """Measure one classifier on one split, class by class.

    Returns:
        The rows of `measure_accuracy`, and the confusion matrix: images by true class (rows) and
        predicted class (columns).
    """
    logits = predict_logits(classifier, split.rows, compute)
    pairs = torch.bincount(split.labels * num_classes + logits.argmax(1), minlength=num_classes**2)
    return _accuracy_of(logits, split), pairs.view(num_classes, num_classes).tolist()


def _accuracy_of(logits: Tensor, split: Split, class_names: Sequence[str] = ()) -> list[dict[str, object]]:
    correct = logits.argmax(1) == split.labels
    error = expected_calibration_error(logits, split.labels)
    rows = [_share("all", correct) | {"calibration_error": error}]
    if split.collision.any():
        rows.append(_share("without collisions", correct[~split.collision]))
    if (groups := split.groups) is not None and (groups >= 0).any():
        by_group = {int(number): correct[groups == number] for number in groups.unique() if number >= 0}
        worst = min(by_group, key=lambda number: by_group[number].float().mean().item())
        names = class_names or [f"class {number}" for number in range(logits.shape[1])]
        rows.append(_share("worst group", by_group[worst]) | {"group": split.group_name(worst, names)})
    if logits.shape[1] > FEW_CLASSES:
        rows.append(_share("top 5", (logits.topk(5, 1).indices == split.labels[:, None]).any(1)))
    return rows


def _share(subset: str, correct: Tensor) -> dict[str, object]:
    return {"subset": subset, "accuracy": float(correct.double().mean()), "num_images": len(correct)}


def expected_calibration_error(logits: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Return by how much the probability of the predicted class differs from how often it is right, in [0, 1].

    Images are sorted into bins of equal width by that probability; the differences between its mean and the accuracy
    of a bin are weighted by its images (Guo et al. 2017, arXiv 1706.04599).

    Args:
        logits: [N, K].
        labels: [N].
        num_bins: Number of bins.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    surplus = confidence - (predicted == labels).double()
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    return float(torch.zeros(num_bins, dtype=torch.double).index_add(0, bins, surplus).abs().sum() / len(labels))


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
