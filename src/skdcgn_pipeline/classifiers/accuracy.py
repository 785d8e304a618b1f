"""What is measured of classifiers; which measures there are follows from what is known of the images.

Everything is a share in [0, 1] of images in a subset of a split:

- `all`: of the right class, with the expected calibration error;
- `without collisions`: of the right class where the object can be seen against its background;
- `worst group`: of the right class in the (class, background) group with the lowest (Sagawa et al. 2020, 1911.08731);
- `top 5`, with more than ten classes: whose class is among the five most probable;
- `shape bias`, of cue-conflict images: decided for the shape, of those decided for shape or texture (Geirhos et al.,
  arXiv 1811.12231);
- `background gap`, of ImageNet-9 (arXiv 2006.09994): by how much `all` is lower where backgrounds are of any class;
- `on every background`, of the same: objects that no background keeps from being recognised, see
  `adversarial_backgrounds`.

A classifier with a head per mechanism is measured by all heads together, by those that do not look at the background
(`without background`, as the gap is published), and by each alone (`shape head`, ...).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from skdcgn_pipeline.classifiers.torchvision_classifier import ALL_HEADS, HEADS, WITHOUT_BACKGROUND, MechanismLogits
from skdcgn_pipeline.images.batches import batches_in_order
from skdcgn_pipeline.images.image_set import ClassGroups, Split
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.compute import autocast, choose_device, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.vocabulary import MECHANISMS

CONFIDENCE = 0.95
FEW_CLASSES = 10  # with more, the five most probable classes are looked at, too
ENOUGH_IMAGES = 2000  # a share of so many is known to about two points
BATCH_SIZE, BATCH_PIXELS = 500, 500 * 64**2  # images per batch at most; of larger images fewer
ALL, TOP_5, SHAPE_BIAS, BACKGROUND_GAP = "all", "top 5", "shape bias", "background gap"
WORST_GROUP, EVERY_BACKGROUND = "worst group", "on every background"

Row = dict[str, Any]


def subset_of(measure: str, prediction: str) -> str:
    """Return what tables call a measure of a prediction, such as `shape head` or `shape bias, shape head`."""
    if prediction == ALL_HEADS:
        return measure
    return prediction if measure == ALL else f"{measure}, {prediction}"


# Plain accuracy beside the one of all heads together, for whoever looks closer.
DETAILS = {subset_of(measure, name) for measure in (ALL, TOP_5) for name in (ALL_HEADS, WITHOUT_BACKGROUND, *HEADS)}
DETAILS -= {ALL}


def open_predictor(classifier: nn.Module, compute: Compute) -> Callable[[Tensor], Any]:
    """Return what gives the logits of images [B, 3, H, W] in [-1, 1], in single precision on the CPU.

    They are [B, K] or `MechanismLogits`; the classifier is moved to the device and set to eval mode.
    """
    device = choose_device(compute.device)
    classifier = place(classifier, device, torch.channels_last).eval()

    @torch.no_grad()
    def predict(images: Tensor) -> Any:
        with autocast(compute, device):
            logits = classifier(images.to(device, non_blocking=True))
        if isinstance(logits, MechanismLogits):
            return MechanismLogits(*(head.float().cpu() for head in logits))
        return logits.float().cpu()

    return predict


def predictions_of(logits: Tensor | MechanismLogits) -> dict[str, Tensor]:
    """Return logits [N, K] by name: those of `ALL_HEADS`, and of the others where there are several."""
    return logits.predictions if isinstance(logits, MechanismLogits) else {ALL_HEADS: logits}


def predict_logits(
    classifier: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], compute: Compute
) -> Iterator[tuple[Any, Tensor]]:
    """Yield of every batch the logits, in single precision on the CPU, [B, K] or `MechanismLogits`, and the labels.

    Args:
        classifier: Is moved to the device and set to eval mode.
        batches: Images [B, 3, H, W] in [-1, 1], and labels, which are handed on.
        compute: Device and precision.
    """
    predict = open_predictor(classifier, compute)
    for images, labels in batches:
        yield predict(images), labels


def batch_size_for(split: Split) -> int:
    """Return how many images of a split are classified at a time."""
    height, width = split.rows.take(torch.zeros(1, dtype=torch.long)).shape[-2:]
    return max(1, min(BATCH_SIZE, BATCH_PIXELS // (height * width)))


def predict_split(classifier: nn.Module, split: Split, compute: Compute) -> dict[str, Tensor]:
    """Return the logits [N, K] of a split's images: those of `ALL_HEADS`, and of the others where there are several.

    Raises:
        InterruptedRunError: If a stop was requested.
    """
    batches = batches_in_order(split, batch_size_for(split))
    logits = [of_batch for of_batch, _ in predict_logits(classifier, batches, compute)]
    if isinstance(logits[0], MechanismLogits):
        return predictions_of(MechanismLogits(*(torch.cat(head) for head in zip(*logits, strict=True))))
    return predictions_of(torch.cat(logits))


def measure_accuracy(classifier: nn.Module, split: Split, compute: Compute) -> list[Row]:
    """Measure one classifier on one split, see `predict_split` and `measure_predictions`."""
    return measure_predictions(predict_split(classifier, split, compute), split)


def measure_predictions(
    predictions: Mapping[str, Tensor], split: Split, class_names: Sequence[str] = (), groups: ClassGroups | None = None
) -> list[Row]:
    """Measure what a classifier predicts of one split.

    Args:
        predictions: The logits [N, K] that `predict_split` gives.
        split: The images.
        class_names: Name of each class; the worst group is called by them.
        groups: Groups of classes by the attribute that names them, see `stored.StoredImages`.

    Returns:
        Rows of `subset`, `accuracy` and `num_images`, and perhaps `group` and `calibration_error`.

    Raises:
        SettingError: If labels or groups are of other classes.
    """
    return [
        row | {"subset": subset_of(row["subset"], name)}
        for name, logits in predictions.items()
        for row in _rows_of(logits, split, class_names, groups or {}, details=name == ALL_HEADS)
    ]


def measure_splits(
    classifier: nn.Module, splits: Iterable[tuple[str, Split]], compute: Compute, class_names: Sequence[str] = ()
) -> tuple[list[Row], dict[str, list[list[int]]]]:
    """Return the rows of splits, given by name, with the `split` of each, and the confusions by split."""
    rows, confusions = list[Row](), {}
    for name, split in splits:
        predictions = predict_split(classifier, split, compute)
        confusions[name] = count_confusions(predictions, split)
        rows += [{"split": name, **row} for row in measure_predictions(predictions, split, class_names)]
    return rows, confusions


def _rows_of(logits: Tensor, split: Split, class_names: Sequence[str], groups: ClassGroups, details: bool) -> list[Row]:
    if {*MECHANISMS[:2]} <= {*split.attributes} & {*groups}:
        return [_cue_decisions(logits, split, groups[MECHANISMS[0]])]
    correct = tell_correct(logits, split, groups)
    rows = [_share(ALL, correct)]
    if {*split.attributes} & {*groups}:
        return rows
    known = split.labels >= 0
    logits, labels = _allowed(logits[known], split), split.labels[known]
    if details:
        rows[0]["calibration_error"] = expected_calibration_error(logits, labels)
        if split.collision.any():
            rows.append(_share("without collisions", correct[~split.collision[known]]))
        numbers = None if split.groups is None else split.groups[known]
        if numbers is not None and (numbers >= 0).any():
            by_group = {int(number): correct[numbers == number] for number in numbers.unique() if number >= 0}
            worst = min(by_group, key=lambda number: by_group[number].float().mean().item())
            names = class_names or [f"class {number}" for number in range(logits.shape[1])]
            rows.append(_share(WORST_GROUP, by_group[worst]) | {"group": split.group_name(worst, names)})
    if logits.shape[1] > FEW_CLASSES:
        rows.append(_share(TOP_5, (logits.topk(5, 1).indices == labels[:, None]).any(1)))
    return rows


def tell_correct(logits: Tensor, split: Split, groups: ClassGroups) -> Tensor:
    """Tell which images of a split are recognised, [M] bool; those of no class, which say nothing, are left out.

    Where attributes name groups of classes, their group counts; of cue-conflict images, that of the shape.

    Args:
        logits: [N, K].
        split: The images.
        groups: As in `measure_predictions`.

    Raises:
        SettingError: If labels or groups are of other classes.
    """
    for attribute, of_class in groups.items():  # shape comes before texture
        if attribute in split.attributes:
            wanted = split.attributes[attribute]
            if attribute == MECHANISMS[0]:
                return decide_groups(logits, of_class) == wanted
            return _in_group(logits, wanted, of_class)
    known = split.labels >= 0
    check_classes(split.labels[known], logits.shape[1], "labels")
    return _allowed(logits[known], split).argmax(1) == split.labels[known]


def _allowed(logits: Tensor, split: Split) -> Tensor:
    """Return logits [N, K] of which those of classes that may not be predicted are -inf."""
    if split.classes is None:
        return logits
    return logits.masked_fill(~torch.isin(torch.arange(logits.shape[1]), split.classes), -math.inf)


def _share(subset: str, correct: Tensor) -> Row:
    accuracy = float(correct.double().mean()) if len(correct) else math.nan
    return {"subset": subset, "accuracy": accuracy, "num_images": len(correct)}


def check_classes(values: Tensor, num_classes: int, what: str) -> None:
    """Refuse indices that are no class.

    Raises:
        SettingError: With the first of them.
    """
    wrong = values[(values < 0) | (values >= num_classes)]
    if len(wrong):
        wanted = f"classes from 0 to {num_classes - 1}"
        raise SettingError(what, wanted, f"{int(wrong[0])}", "Use the table that belongs to the classifier.")


def decide_groups(logits: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Return the group of classes [N] that logits [N, K] decide for.

    Probabilities are averaged over the classes of each group (Geirhos et al., arXiv 1811.12231), so that a group of
    many classes has no advantage; classes of no group do not count.

    Raises:
        SettingError: If a group has a class that there is not.
    """
    check_classes(torch.cat([*groups]), logits.shape[1], "groups of classes")
    probabilities = logits.double().softmax(1)
    return torch.stack([probabilities[:, classes].mean(1) for classes in groups], 1).argmax(1)


def _cue_decisions(logits: Tensor, split: Split, groups: Sequence[Tensor]) -> Row:
    """Return the shape bias; images whose shape and texture are of one group say nothing of it."""
    shape, texture = (split.attributes[mechanism] for mechanism in MECHANISMS[:2])
    decisions = decide_groups(logits, groups)
    by_a_cue = (shape != texture) & ((decisions == shape) | (decisions == texture))
    return _share(SHAPE_BIAS, (decisions == shape)[by_a_cue])


def _in_group(logits: Tensor, wanted: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Tell which of N images are taken for a class of the group wanted [N]; a class of no group is wrong."""
    group_of_class = torch.full((logits.shape[1],), -1)
    for number, classes in enumerate(groups):
        check_classes(classes, logits.shape[1], "groups of classes")
        group_of_class[classes] = number
    check_classes(wanted, len(groups), "labels")
    return group_of_class[logits.argmax(1)] == wanted


def background_gap(rows: Sequence[Row], same: str, random: str) -> list[Row]:
    """Return by how much accuracy is higher where backgrounds are of the object's class than where of any.

    Args:
        rows: As `measure_predictions` gives them, with their `split`.
        same, random: Names of the two splits.
    """
    found = {name: {row["subset"]: row for row in rows if row["split"] == name} for name in (same, random)}
    return [
        {
            "split": same.partition("/")[0],
            "subset": subset_of(BACKGROUND_GAP, ALL_HEADS if subset == ALL else subset),
            "accuracy": row["accuracy"] - found[random][subset]["accuracy"],
            "num_images": found[random][subset]["num_images"],
        }
        for subset, row in found[same].items()
        if subset in found[random]
    ]


def measure_heads(classifier: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], compute: Compute) -> list[Row]:
    """Measure how well each head names the class of its own mechanism in counterfactuals.

    Args:
        classifier: Gives `MechanismLogits`.
        batches: Counterfactuals [B, 3, H, W] and labels [B, 3] of shape, texture and background.
        compute: Device and precision.
    """
    logits, labels = zip(*predict_logits(classifier, batches, compute), strict=True)
    heads = [torch.cat(head) for head in zip(*logits, strict=True)]
    by_head = zip(HEADS, heads, torch.cat(labels).unbind(1), strict=True)
    return [_share(name, head.argmax(1) == classes) for name, head, classes in by_head]


def count_confusions(predictions: Mapping[str, Tensor], split: Split) -> list[list[int]]:
    """Count the images of a split by true class (rows) and by the class that `predict_split` gives (columns)."""
    logits, known = predictions[ALL_HEADS], split.labels >= 0
    num_classes = logits.shape[1]
    pairs = torch.bincount(split.labels[known] * num_classes + logits[known].argmax(1), minlength=num_classes**2)
    return pairs.view(num_classes, num_classes).tolist()


def confusion_rows(counts: Sequence[Sequence[int]], class_names: Sequence[str] | range) -> list[Row]:
    """Return a row per true class of what `count_confusions` gives; a range names classes by their numbers.

    Returns:
        Rows of `label`, the share of its images that are recognised (`accuracy`, NaN where it has none), and
        `predicted_<name>` of each class; numbers stand for names where two classes share one.
    """
    names = class_names if len(set(class_names)) == len(class_names) else [*map(str, range(len(class_names)))]
    return [
        {"label": names[label], "accuracy": line[label] / sum(line) if sum(line) else math.nan}
        | {f"predicted_{name}": int(count) for name, count in zip(names, line, strict=True)}
        for label, line in enumerate(counts)
    ]


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
    from scipy.special import stdtrit  # slow to import

    deviation = float(values.std(ddof=1))
    half_width = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * deviation / math.sqrt(len(values))
    return float(values.mean()), deviation, float(half_width)


def summarise_accuracy(accuracy: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Summarise over seeds: mean, standard deviation, 95 % interval, number of seeds, calibration per group."""
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
            | ({"calibration_error": group["calibration_error"].mean()} if "calibration_error" in group else {})
        )
    return pd.DataFrame(rows)


def accuracy_metrics(summary: pd.DataFrame) -> dict[str, float]:
    """Return mean accuracies of a summary by name: accuracy/<trained on>/<split>/<subset>."""
    names = map(metric_name, summary["trained_on"], summary["split"], summary["subset"])
    return dict(zip(names, summary["mean_accuracy"], strict=True))


def metric_name(*parts: str) -> str:
    """Return what MLflow calls the accuracy that parts tell apart, such as accuracy/test/without_collisions."""
    return re.sub("[ ,]+", "_", "/".join(["accuracy", *parts]))
