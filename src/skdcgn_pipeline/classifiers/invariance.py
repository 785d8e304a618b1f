"""How invariant an ensemble is: accuracy, shape bias, background gap, and whether each head knows its mechanism.

The functions on logits are pure; those named `measure_...` run an ensemble over batches and return rows for a
table. Shares are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from skdcgn_pipeline.classifiers.ensemble import InvariantEnsemble, MechanismLogits
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.compute import autocast, choose_device, memory_format, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.vocabulary import MECHANISMS

Batches = Iterable[tuple[Tensor, Tensor]]
Row = dict[str, str | int | float | None]

# What an ensemble says: all heads together, all but the one that looks at the background, each alone.
PREDICTIONS = ("mean", "without_background", *MECHANISMS)
TOP = (1, 5)


def _check_range(values: Tensor, num_classes: int, what: str) -> None:
    """Refuse indices that are no class.

    Raises:
        SettingError: With the first of them.
    """
    wrong = values[(values < 0) | (values >= num_classes)]
    if len(wrong):
        wanted = f"classes from 0 to {num_classes - 1}"
        raise SettingError(what, wanted, f"{int(wrong[0])}", "Use the table that belongs to the classifier.")


# --- accuracy ------------------------------------------------------------------------------------


def count_top_k(logits: Tensor, labels: Tensor, top: Sequence[int] = TOP, classes: Tensor | None = None) -> list[int]:
    """Count the images whose class is among the k highest logits, for each k.

    Args:
        logits: [N, K].
        labels: [N], classes in 0 .. K - 1.
        top: Values of k; more than there are classes counts as all of them.
        classes: The only classes that may be predicted, such as the 200 of ImageNet-A; None allows all.

    Raises:
        SettingError: If a label is no class, or none that may be predicted.
    """
    _check_range(labels, logits.shape[1], "labels")
    if classes is not None:
        _check_range(classes, logits.shape[1], "restrict")
        matches = labels[:, None] == classes
        if not matches.any(1).all():
            stray = int(labels[~matches.any(1)][0])
            remedy = "Restrict predictions to the classes of the folder."
            raise SettingError("restrict", "the class of every image among those allowed", f"class {stray}", remedy)
        logits, labels = logits[:, classes], matches.int().argmax(1)
    ranked = logits.topk(min(max(top), logits.shape[1]), dim=1).indices == labels[:, None]
    return [int(ranked[:, :k].sum()) for k in top]


def top_k_accuracy(
    logits: Tensor, labels: Tensor, top: Sequence[int] = TOP, classes: Tensor | None = None
) -> dict[int, float]:
    """Return the share of images whose class is among the k highest logits, by k; see `count_top_k`."""
    counts = count_top_k(logits, labels, top, classes)
    return {k: count / len(labels) for k, count in zip(top, counts, strict=True)}


# --- shape bias ----------------------------------------------------------------------------------


def decide_categories(logits: Tensor, categories: Mapping[str, Tensor]) -> Tensor:
    """Return the entry-level category [N] that logits [N, K] decide for.

    Probabilities are averaged over the classes of each category (Geirhos et al., arXiv 1811.12231), so that
    a category of many classes has no advantage; classes of no category do not count.

    Raises:
        SettingError: If a category has a class that there is not.
    """
    for name, classes in categories.items():
        _check_range(classes, logits.shape[1], f"category '{name}'")
    probabilities = logits.double().softmax(1)
    return torch.stack([probabilities[:, own].mean(1) for own in categories.values()], 1).argmax(1)


def count_cue_decisions(logits: Tensor, labels: Tensor, categories: Mapping[str, Tensor]) -> dict[str, int]:
    """Count how cue-conflict images are decided.

    Args:
        logits: [N, K].
        labels: [N, 2], the category of shape and of texture.
        categories: The classes of each category.

    Returns:
        `num_shape`, `num_texture` and `num_other` decisions, and `num_without_conflict`: images whose shape
        and texture are of one category, which no decision is counted for.
    """
    _check_range(labels.flatten(), len(categories), "labels")
    decisions = decide_categories(logits, categories)
    conflict = labels[:, 0] != labels[:, 1]
    for_shape, for_texture = (conflict & (decisions == cue) for cue in labels.unbind(1))
    return {
        "num_shape": int(for_shape.sum()),
        "num_texture": int(for_texture.sum()),
        "num_other": int((conflict & ~for_shape & ~for_texture).sum()),
        "num_without_conflict": int((~conflict).sum()),
    }


def shape_bias(num_shape: int, num_texture: int) -> float | None:
    """Return shape decisions over shape and texture decisions, None where there are neither."""
    return num_shape / (num_shape + num_texture) if num_shape + num_texture else None


# --- background gap ------------------------------------------------------------------------------


def count_in9(logits: Tensor, labels: Tensor, in9_of_class: Tensor) -> int:
    """Count the images of ImageNet-9 that are classified right.

    Args:
        logits: [N, K].
        labels: [N], ImageNet-9 classes.
        in9_of_class: [K] the ImageNet-9 class of each class, or -1: predicting such a class is wrong.

    Raises:
        SettingError: If a label is no ImageNet-9 class, or the table is not of K classes.
    """
    if len(in9_of_class) != logits.shape[1]:
        got = f"{logits.shape[1]} classes"
        raise SettingError(
            "classifier", f"the {len(in9_of_class)} classes of the ImageNet-9 table", got, "Measure another."
        )
    _check_range(labels, int(in9_of_class.max()) + 1, "labels")
    return int((in9_of_class[logits.argmax(1)] == labels).sum())


# --- ensembles -----------------------------------------------------------------------------------


@torch.no_grad()
def predict(
    ensemble: InvariantEnsemble, batches: Batches, compute: Compute
) -> Iterator[tuple[MechanismLogits, Tensor]]:
    """Yield the logits of every batch, on the CPU, with its labels.

    Args:
        ensemble: Is moved to the device and set to eval mode.
        batches: Images [B, 3, H, W] in [-1, 1] with labels, such as `batches_in_order` gives.
        compute: Device and precision.
    """
    device = choose_device(compute.device)
    layout = memory_format(compute)
    ensemble = place(ensemble, device, layout).eval()
    for images, labels in batches:
        with autocast(compute, device):
            logits = ensemble(images.to(device, memory_format=layout, non_blocking=True))
        yield MechanismLogits(*(own.cpu() for own in logits)), labels


def _predictions(logits: MechanismLogits) -> Iterator[tuple[str, Tensor]]:
    for name in PREDICTIONS:
        yield name, getattr(logits, name)


def _check_some(num_images: int, what: str) -> None:
    if not num_images:
        raise SettingError(what, "images to measure on", "none", "Give a folder with images.")


def _accuracy_row(prediction: str, counts: Sequence[int], num_images: int) -> Row:
    shares = {f"top_{k}": count / num_images for k, count in zip(TOP, counts, strict=True)}
    return {"prediction": prediction, **shares, "num_images": num_images}


def measure_accuracy_on_folder(
    ensemble: InvariantEnsemble, batches: Batches, compute: Compute, classes: Tensor | None = None
) -> list[Row]:
    """Measure top-1 and top-5 accuracy on images with classes in 0 .. K - 1.

    Args:
        ensemble: The classifier.
        batches: Images and labels [B].
        compute: Device and precision.
        classes: The only classes that may be predicted, for a folder with some of them; None allows all.

    Returns:
        For each of `PREDICTIONS`: `prediction`, `top_1`, `top_5`, `num_images`.
    """
    counts = {name: [0] * len(TOP) for name in PREDICTIONS}
    num_images = 0
    for logits, labels in predict(ensemble, batches, compute):
        num_images += len(labels)
        for name, own in _predictions(logits):
            found = count_top_k(own, labels, TOP, classes)
            counts[name] = [before + now for before, now in zip(counts[name], found, strict=True)]
    _check_some(num_images, "accuracy")
    return [_accuracy_row(name, own, num_images) for name, own in counts.items()]


def measure_shape_bias(
    ensemble: InvariantEnsemble, batches: Batches, categories: Mapping[str, Tensor], compute: Compute
) -> list[Row]:
    """Measure the shape bias on cue-conflict images.

    Args:
        ensemble: The classifier.
        batches: Images and labels [B, 2], the category of shape and texture.
        categories: The classes of each category.
        compute: Device and precision.

    Returns:
        For each of `PREDICTIONS`: `prediction`, `shape_bias` (None without any decision for shape or
        texture) and the counts of `count_cue_decisions`.
    """
    totals: dict[str, dict[str, int]] = {name: {} for name in PREDICTIONS}
    for logits, labels in predict(ensemble, batches, compute):
        for name, own in _predictions(logits):
            found = count_cue_decisions(own, labels, categories)
            totals[name] = {key: totals[name].get(key, 0) + count for key, count in found.items()}
    _check_some(len(totals["mean"]), "shape bias")
    return [
        {"prediction": name, "shape_bias": shape_bias(own["num_shape"], own["num_texture"]), **own}
        for name, own in totals.items()
    ]


def measure_background_gap(
    ensemble: InvariantEnsemble,
    mixed_same: Batches,
    mixed_rand: Batches,
    in9_of_class: Tensor,
    compute: Compute,
    original: Batches | None = None,
) -> list[Row]:
    """Measure how much accuracy on ImageNet-9 depends on the background (arXiv 2006.09994).

    Args:
        ensemble: The classifier.
        mixed_same: Objects on backgrounds of their own class; labels [B] of ImageNet-9.
        mixed_rand: The same objects on backgrounds of any class.
        in9_of_class: [K] the ImageNet-9 class of each class, or -1.
        compute: Device and precision.
        original: The unchanged images, where they are wanted too.

    Returns:
        For each of `PREDICTIONS`: `prediction`, accuracies `mixed_same` and `mixed_rand` (and `original`),
        their difference `background_gap`, and the number of images of each. The published gap is that of
        `without_background`.
    """
    folders = {"original": original, "mixed_same": mixed_same, "mixed_rand": mixed_rand}
    rows: dict[str, Row] = {name: {"prediction": name} for name in PREDICTIONS}
    for folder, batches in folders.items():
        if batches is None:
            continue
        counts = dict.fromkeys(PREDICTIONS, 0)
        num_images = 0
        for logits, labels in predict(ensemble, batches, compute):
            num_images += len(labels)
            for name, own in _predictions(logits):
                counts[name] += count_in9(own, labels, in9_of_class)
        _check_some(num_images, folder)
        for name, count in counts.items():
            rows[name] |= {folder: count / num_images, f"num_{folder}": num_images}
    for row in rows.values():
        row["background_gap"] = float(row["mixed_same"] or 0) - float(row["mixed_rand"] or 0)
    return list(rows.values())


def measure_counterfactual_accuracy(ensemble: InvariantEnsemble, batches: Batches, compute: Compute) -> list[Row]:
    """Measure how well each head names the class of its own mechanism in counterfactuals.

    Args:
        ensemble: The classifier.
        batches: Counterfactuals and labels [B, 3] of shape, texture and background.
        compute: Device and precision.

    Returns:
        For each mechanism: `prediction`, `top_1`, `top_5`, `num_images`.
    """
    counts = {mechanism: [0] * len(TOP) for mechanism in MECHANISMS}
    num_images = 0
    for logits, labels in predict(ensemble, batches, compute):
        num_images += len(labels)
        for mechanism, own in zip(MECHANISMS, labels.unbind(1), strict=True):
            found = count_top_k(logits.of(mechanism), own)
            counts[mechanism] = [before + now for before, now in zip(counts[mechanism], found, strict=True)]
    _check_some(num_images, "counterfactual accuracy")
    return [_accuracy_row(mechanism, own, num_images) for mechanism, own in counts.items()]
