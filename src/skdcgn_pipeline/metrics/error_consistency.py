"""Error consistency: whether two classifiers err on the same images (Geirhos et al. 2020, arXiv 2006.16736)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, combinations_with_replacement, product
from typing import Any

import numpy as np

from skdcgn_pipeline.runtime.errors import SettingError

ERROR_COLUMNS = ["trained_on", "other", "split", "error_consistency", "observed", "expected", "num_pairs", "num_images"]


def error_consistency(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Return how far two classifiers are right and wrong on the same images (equations 1 to 3).

    Args:
        first, second: [N] bool, which images each recognises.

    Returns:
        Cohen's kappa, in [-1, 1]: 1 where they err on the same images, 0 as by chance; NaN where it is not defined,
        because there is no image, or both are right, or both wrong, on all. Then the share of images on which both are
        right or both wrong, and the share that is expected of two of their accuracies that err independently.

    Raises:
        SettingError: If they are not of as many images.
    """
    if first.shape != second.shape:
        remedy = "Measure both classifiers on the same images."
        raise SettingError("error consistency", "two answers to every image", f"{len(first)}, {len(second)}", remedy)
    if not len(first):
        return math.nan, math.nan, math.nan
    observed, right, other = (float(share.mean()) for share in (first == second, first, second))
    expected = right * other + (1 - right) * (1 - other)
    kappa = (observed - expected) / (1 - expected) if expected < 1 else math.nan
    return kappa, observed, expected


def compare_errors(right: Mapping[str, Sequence[np.ndarray]]) -> list[dict[str, Any]]:
    """Compare the errors of classifiers, those of each training set with each other and with those of the others.

    Args:
        right: By training set, of each of its classifiers which images [N] it recognises.

    Returns:
        A row per two training sets between which there is a pair of classifiers: `trained_on`, `other`, the means of
        what `error_consistency` gives over the pairs of which it is defined, their number `num_pairs` (where it is 0
        the means are NaN), and `num_images`.
    """
    rows = []
    for name, other in combinations_with_replacement(right, 2):
        pairs = [*(combinations(right[name], 2) if name == other else product(right[name], right[other]))]
        defined = [of_pair for pair in pairs if not math.isnan((of_pair := error_consistency(*pair))[0])]
        if pairs:
            means = np.mean(defined, axis=0).tolist() if defined else [math.nan] * 3
            measured = dict(zip(ERROR_COLUMNS[3:6], means, strict=True))
            counted = {"num_pairs": len(defined), "num_images": len(right[name][0])}
            rows.append({"trained_on": name, "other": other} | measured | counted)
    return rows
