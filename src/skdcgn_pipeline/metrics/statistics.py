"""Statistics of the ablation: cells summarised over seeds and compared with their reference, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.classifiers.accuracy import mean_interval, summarise_accuracy
from skdcgn_pipeline.vocabulary import MECHANISMS

SIGNIFICANCE = 0.05  # of the Holm-adjusted p
MARGIN = 0.01  # of accuracy: a difference that is surely smaller is called none
NO_SPREAD = 1e-9  # of accuracy: far below one image, far above rounding

KEYS = ["study", "cell", "split", "subset"]
AVERAGED = ["mask_iou", "l1_foreground", "l1_background", "calibration_error"]  # over seeds, where there are any
BUDGET = ["num_training_images", "batch_size", "distillation_steps"]
FACTORS = ["mechanism", "transformation", "strength", "source"]
DESCRIPTION = [
    "reference",
    *FACTORS,
    *(f"{switch}_{mechanism}" for switch in ("source", "counterfactual") for mechanism in MECHANISMS),
    *("per_shape", "dataset_size", "originals_share", "loss_change", "stage", "num_parameters"),
    *("method", "conflicting_share"),
    *BUDGET,
]
MEASURED = ["mean_accuracy", "standard_deviation", "interval_low", "interval_high", "num_seeds", "num_images"]
COMPARED = ["difference", "difference_low", "difference_high", "p_value", "effect_size", "num_pairs"]
# Of a cell's comparison, beside every seed.
PUBLISHED = ["mean_difference", "difference_low", "difference_high", "p_holm", "effect_size"]
TIDY_COLUMNS = [
    *("study", "cell", *FACTORS, "seed", "split", "subset"),
    *("accuracy", "reference", "reference_accuracy", "difference", *PUBLISHED),
    *BUDGET,
]
EFFECT_COLUMNS = ["split", "effect", "order", *COMPARED, "p_holm"]


def holm(p_values: Sequence[float] | np.ndarray | pd.Series) -> np.ndarray:
    """Adjust p-values so that the chance of any false finding among them stays below the level.

    The i-th smallest of m is multiplied by m - i + 1, made monotone and capped at 1 (Holm 1979, "A simple
    sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 65-70).

    Args:
        p_values: [K]; NaN stays NaN and does not count towards m.

    Returns:
        Adjusted p-values [K], in the order given.
    """
    raw = np.asarray(p_values, dtype=float)
    adjusted = np.full(raw.shape, math.nan)
    order = [index for index in np.argsort(raw, kind="stable") if not math.isnan(raw[index])]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * raw[order]))
    return adjusted


def compare_pairs(values: pd.Series, reference: pd.Series | float) -> dict[str, float]:
    """Compare two series of values indexed by seed, or one with a number; only seeds that both have count.

    Returns:
        `difference` (value minus reference, mean), its 95 % interval `difference_low` to `difference_high`
        and `p_value` of the paired t-test, `effect_size` and `num_pairs`. The effect size is Hedges' g of
        pairs, g = J(n - 1) mean / sd of the differences, with the correction for few pairs
        J(f) = Gamma(f / 2) / (sqrt(f / 2) Gamma((f - 1) / 2)) (Hedges 1981, "Distribution theory for Glass's
        estimator of effect size and related estimators", Journal of Educational Statistics 6, 107-128).

        NaN where it is not defined: everything without a pair; interval, p and effect with one pair; the
        effect with two (J(1) = 0); p and effect where all differences are equal, also when they are all
        zero, because without spread there is nothing to hold the mean against.
    """
    differences = (values - reference).dropna().to_numpy(dtype=float)
    count = len(differences)
    described = dict.fromkeys(COMPARED, math.nan) | {"num_pairs": count}
    if not count:
        return described
    mean, deviation, half_width = mean_interval(differences)
    described |= {"difference": mean, "difference_low": mean - half_width, "difference_high": mean + half_width}
    if deviation > NO_SPREAD:  # False for NaN, that is for one pair
        from scipy import special, stats  # takes a second to import

        described["p_value"] = float(stats.ttest_1samp(differences, 0).pvalue)
        if count > 2:
            freedom = count - 1
            log_gammas = special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2)
            described["effect_size"] = float(np.exp(log_gammas) / math.sqrt(freedom / 2) * mean / deviation)
    return described


def judge(comparison: Mapping[Any, Any]) -> str:
    """Put a comparison into one of five words.

    Args:
        comparison: `difference`, `difference_low`, `difference_high` and `p_holm`, in accuracy.

    Returns:
        `not compared` without a difference; `raises` or `lowers` where the Holm-adjusted p is below 0.05;
        else `no difference` where the interval lies within one point of zero, and `undecided`.
    """
    if math.isnan(comparison["difference"]):
        return "not compared"
    if comparison["p_holm"] < SIGNIFICANCE:
        return "raises" if comparison["difference"] > 0 else "lowers"
    if comparison["difference_low"] > -MARGIN and comparison["difference_high"] < MARGIN:
        return "no difference"
    return "undecided"


def _checked(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that hold an accuracy, groups as they come and seeds in order."""
    cells = cells.dropna(subset=["accuracy"])
    twice = cells.duplicated([*KEYS, "seed"])
    if twice.any():
        row = cells[twice].iloc[0]
        raise ValueError(
            f"cells: expected one row per study, cell, seed, split and subset, got two of {row['study']}, "
            f"{row['cell']}, seed {row['seed']}, {row['split']}, {row['subset']}; give every cell its own name"
        )
    groups = cells.groupby(KEYS, sort=False).ngroup()
    return cells.assign(_group=groups).sort_values(["_group", "seed"]).drop(columns="_group")


def summarise_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Summarise cells over seeds and compare each with its reference.

    Args:
        cells: A row per study, cell, seed, split and subset, with `reference` (a cell of the same study),
            `accuracy` in [0, 1] and `num_images`; descriptions and fidelity are carried along where there are
            any. Rows without an accuracy do not count.

    Returns:
        A row per study, cell, split and subset, in order of appearance: descriptions, `AVERAGED` (mean over
        seeds), the columns of `summarise_accuracy` and those of `compare_pairs`, and `p_holm`, adjusted over
        all comparisons of one study, split and subset. The comparison is NaN for the reference itself and
        where the reference is missing.

    Raises:
        ValueError: A cell has two rows for one seed, split and subset.
    """
    cells = _checked(cells)
    described = [name for name in DESCRIPTION if name in cells]
    measured = [name for name in AVERAGED if name in cells]
    if cells.empty:
        return pd.DataFrame(columns=[*KEYS, *described, *measured, *MEASURED, *COMPARED, "p_holm"])
    groups = cells.groupby(KEYS, sort=False)
    summary = summarise_accuracy(cells, KEYS)
    # Joined without their index: all three have one row per group, in the same order.
    carried = groups[described].first().reset_index(drop=True)
    averaged = groups[measured].mean().reset_index(drop=True) if measured else pd.DataFrame(index=summary.index)
    summary = pd.concat([summary[KEYS], carried, averaged, summary[MEASURED]], axis=1)

    accuracy = {key: group.set_index("seed")["accuracy"] for key, group in groups}
    nothing = pd.Series(dtype=float)
    comparisons = []
    for study, cell, split, subset, name in summary[[*KEYS, "reference"]].itertuples(index=False):
        reference = nothing if name == cell else accuracy.get((study, name, split, subset), nothing)
        comparisons.append(compare_pairs(accuracy[study, cell, split, subset], reference))
    summary = summary.join(pd.DataFrame(comparisons, index=summary.index))
    families = summary.groupby(["study", "split", "subset"], sort=False)["p_value"]
    return summary.assign(p_holm=families.transform(holm))


def tidy_cells(cells: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table that is published: every seed beside its reference and its cell's comparison.

    Args:
        cells: As for `summarise_cells`.
        summary: What `summarise_cells` made of it.

    Returns:
        The columns `TIDY_COLUMNS`, those absent from `cells` as NaN. `difference` is that of one seed,
        `mean_difference` and what follows that of the cell; all are NaN for the reference itself.
    """
    cells = _checked(cells)
    at_seed = ["study", "reference", "seed", "split", "subset"]
    reference = cells.drop(columns="reference").rename(columns={"cell": "reference", "accuracy": "reference_accuracy"})
    compared = summary.rename(columns={"difference": "mean_difference"})
    table = cells.merge(reference[[*at_seed, "reference_accuracy"]], "left", on=at_seed)
    table = table.merge(compared[[*KEYS, *PUBLISHED]], "left", on=KEYS)
    difference = table["accuracy"] - table["reference_accuracy"]
    table["difference"] = difference.where(table["cell"] != table["reference"])
    return table.reindex(columns=TIDY_COLUMNS)


def factorial_effects(cells: pd.DataFrame, factor: str, on: Any, off: Any) -> pd.DataFrame:
    """Return main effects and interactions of a study in which each mechanism is switched on and off.

    With signs s = +1 (on) and -1 (off), an effect is the sum of the eight accuracies, each multiplied by the
    signs of its mechanisms, over four: a main effect is the mean with the mechanism on minus the mean with it
    off, an interaction of two half the change of one's effect by the other (Box, Hunter and Hunter, Statistics
    for Experimenters, 2005, chapter 5). Computed seed by seed, for the subset `all`.

    Args:
        cells: Rows of one study, as for `summarise_cells`.
        factor: What is switched: the columns `<factor>_<mechanism>` say how it is.
        on, off: The two values; cells with any other are left out.

    Returns:
        Seven rows per split (`effect`: `shape`, ..., `shape x texture`, ...; `order` 1 to 3) with the columns
        of `compare_pairs` and `p_holm` over the seven. Seeds without all eight combinations are left out, and
        a split without any complete seed has no rows.
    """
    if cells.empty:
        return pd.DataFrame(columns=EFFECT_COLUMNS)
    part = cells[cells["subset"] == "all"].dropna(subset=["accuracy"])
    columns = [f"{factor}_{mechanism}" for mechanism in MECHANISMS]
    part = part[part[columns].isin([on, off]).all(axis=1)]
    combinations_of = list(product([off, on], repeat=len(MECHANISMS)))
    signs = np.array([[1.0 if value == on else -1.0 for value in combination] for combination in combinations_of])
    rows = []
    for split, group in part.groupby("split", sort=False):
        table = group.pivot_table(index="seed", columns=columns, values="accuracy")
        table = table.reindex(columns=pd.MultiIndex.from_tuples(combinations_of)).dropna()
        if table.empty:
            continue
        effects: list[dict[str, Any]] = [
            {"split": split, "effect": " x ".join(MECHANISMS[place] for place in places), "order": order}
            | compare_pairs(pd.Series(table.to_numpy() @ signs[:, places].prod(axis=1) / 4), 0.0)
            for order in (1, 2, 3)
            for places in combinations(range(len(MECHANISMS)), order)
        ]
        adjusted = holm([effect["p_value"] for effect in effects])
        rows += [effect | {"p_holm": p} for effect, p in zip(effects, adjusted, strict=True)]
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)
