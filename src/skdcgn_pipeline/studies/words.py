"""The words in which studies tell what they found; nothing is said that the adjusted figures do not allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from skdcgn_pipeline.metrics.statistics import compare_pairs, factorial_effects, holm, judge
from skdcgn_pipeline.reporting.templates import in_markdown
from skdcgn_pipeline.vocabulary import MECHANISMS

# What can be said of a comparison -> of one, of several.
VERDICTS = {
    "raises": (": this raises the accuracy", "Raises the accuracy"),
    "lowers": (": this lowers the accuracy", "Lowers the accuracy"),
    "no difference": (
        ": no difference, the interval lies within 1 point",
        "No difference, the interval within 1 point",
    ),
    "undecided": (": undecided", "Undecided"),
}
Row = Mapping[Any, Any]


def signed(value: float, digits: int = 1) -> str:
    """Write a number with its sign, a true minus and no negative zero."""
    text = f"{value:+.{digits}f}"
    return (text if float(text) else f"{0:.{digits}f}").replace("-", "−")


def percent(value: float) -> str:
    """Write a share."""
    return f"{100 * value:.1f} %"


def outcomes(rows: Sequence[Row]) -> list[str]:
    """List the cells that were compared by what can be said of them, the largest gain first, in points."""
    ranked = sorted(rows, key=lambda row: -row["difference"])
    sentences = []
    for verdict, (_, words) in VERDICTS.items():
        names = [f"{row['cell']} ({signed(100 * row['difference'])})" for row in ranked if judge(row) == verdict]
        sentences += [f"{words}: {', '.join(names)}."] if names else []
    return sentences


def verdict_of(row: Row) -> str:
    """Write a difference in points with its interval and adjusted p, and what it allows to say."""
    if math.isnan(row["difference"]):
        return "no difference can be given"
    said = VERDICTS[judge(row)][0]
    text = f"{signed(100 * row['difference'])} points"
    if math.isnan(row["difference_low"]):
        return f"{text} (one seed, no interval){said}"
    interval = f"95 % interval {signed(100 * row['difference_low'])} to {signed(100 * row['difference_high'])}"
    p = row["p_holm"]
    if math.isnan(p):
        return f"{text} ({interval}; equal in all seeds, not testable){said}"
    return f"{text} ({interval}, Holm-adjusted p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}){said}"


def compare_cells(cells: pd.DataFrame, cell: str, other: str) -> dict[str, float]:
    """Compare the accuracy of two cells seed by seed, see `compare_pairs`."""
    first, second = (cells[cells["cell"] == which].set_index("seed")["accuracy"] for which in (cell, other))
    return compare_pairs(first, second)


def tell_comparisons(comparisons: Mapping[str, dict[str, float]]) -> list[str]:
    """Give the verdict of each comparison that has a pair, its p adjusted over all of them."""
    paired = {name: comparison for name, comparison in comparisons.items() if comparison["num_pairs"]}
    p_values = holm([comparison["p_value"] for comparison in paired.values()])
    return [
        f"{name}: {verdict_of(comparison | {'p_holm': p})}."
        for (name, comparison), p in zip(paired.items(), p_values, strict=True)
    ]


def tell_effects(cells: pd.DataFrame, switched: str, factor: str, on: Any, off: Any) -> list[str]:
    """Say what switching each mechanism does, averaged over the others, and which need or hinder each other.

    Args:
        cells: A row per cell and seed.
        switched: What is done to a mechanism, with `{}` for its name.
        factor, on, off: As for `factorial_effects`.
    """
    sentences = []
    for effect in factorial_effects(cells, factor, on, off).to_dict("records"):
        if effect["order"] == 1:
            what = switched.format(effect["effect"])
            sentences.append(f"{what}, averaged over the other {len(MECHANISMS) - 1}: {verdict_of(effect)}.")
        elif judge(effect) in ("raises", "lowers"):
            sentences.append(f"Together, {effect['effect']}: {verdict_of(effect)}.")
    return sentences


def tell_sizes(rows: pd.DataFrame) -> str:
    """Give the accuracy by parameters of the generator, the smallest first."""
    sized = rows.dropna(subset=["num_parameters"]).sort_values("num_parameters", kind="stable")
    columns = sized[["num_parameters", "cell", "mean_accuracy"]].to_numpy()
    sizes = (f"{number:,.0f} ({cell}) {percent(mean)}" for number, cell, mean in columns)
    return f"Accuracy by parameters of the generator: {', '.join(sizes)}."


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown."""
    return [*(f"| {' | '.join(line)} |" for line in [names, ["---"] * len(names), *rows]), ""]


def dashed(figures: Sequence[str]) -> list[str]:
    """Return figures as they are told; one that there is not is a dash."""
    return ["–" if "nan" in figure else figure for figure in figures]


def compared_figures(row: Row) -> list[str]:
    """Return accuracy with its interval, difference with its interval, and the adjusted p, in percent and points."""
    return [
        percent(row["mean_accuracy"]),
        f"{100 * row['interval_low']:.1f} to {100 * row['interval_high']:.1f}",
        signed(100 * row["difference"]),
        f"{signed(100 * row['difference_low'])} to {signed(100 * row['difference_high'])}",
        f"{row['p_holm']:.3g}",
    ]


def table_of_cells(summary: pd.DataFrame) -> list[str]:
    """Return cells as a table in Markdown, in percent and points."""
    names = ["cell", "split", "accuracy", "95 % interval", "difference", "its interval", "p (Holm)", "g", "seeds"]
    rows = [
        [
            in_markdown(row["cell"]),
            in_markdown(row["split"]),
            *dashed([*compared_figures(row), signed(row["effect_size"], 2), str(int(row["num_seeds"]))]),
        ]
        for row in summary.to_dict("records")
    ]
    return markdown_table(names, rows)
