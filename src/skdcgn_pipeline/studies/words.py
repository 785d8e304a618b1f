"""The words in which studies tell what they found; nothing is said that the adjusted figures do not allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from skdcgn_pipeline.metrics.statistics import compare_pairs, holm, judge

SAID = {
    "raises": ": this raises the accuracy",
    "lowers": ": this lowers the accuracy",
    "no difference": ": no difference, the interval lies within 1 point",
    "undecided": ": undecided",
    "not compared": "",
}
Row = Mapping[Any, Any]


# --- numbers and lists -------------------------------------------------------------------------------


def signed(value: float, digits: int = 1) -> str:
    """Write a number with its sign, a true minus and no negative zero."""
    text = f"{value:+.{digits}f}"
    return (text if float(text) else f"{0:.{digits}f}").replace("-", "−")


def percent(value: float) -> str:
    """Write a share."""
    return f"{100 * value:.1f} %"


def listed(parts: Sequence[str]) -> str:
    """Write a list with its last `and`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def p_of(value: float) -> str:
    """Write a p-value."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def parameters_of(row: Row) -> str:
    """Write the size of a cell's generator."""
    number = row["num_parameters"]
    return "an unknown number of parameters" if math.isnan(number) else f"{number:,.0f} parameters"


# --- cells -------------------------------------------------------------------------------------------


def is_reference(rows: pd.DataFrame) -> pd.Series:
    """Tell which rows are references."""
    return rows["cell"] == rows["reference"]


def ranked(rows: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the cells that were compared, the largest gain first."""
    compared = rows[~is_reference(rows)].dropna(subset=["difference"])
    return compared.sort_values("difference", ascending=False, kind="stable").to_dict("records")


def judged(rows: Sequence[Row], verdict: str) -> list[Row]:
    """Return the cells of one verdict."""
    return [row for row in rows if judge(row) == verdict]


def called(row: Row) -> str:
    """Name a cell: by transformation and strength where it has one."""
    if not row["transformation"]:
        return str(row["cell"])
    return row["transformation"] + ("" if math.isnan(row["strength"]) else f" {row['strength']:g}")


def named(rows: Sequence[Row], with_mechanism: bool = False) -> str:
    """List cells with their differences in points."""
    return listed(
        [
            (f"{row['mechanism']} " if with_mechanism else "") + f"{called(row)} ({signed(100 * row['difference'])})"
            for row in rows
        ]
    )


def compare_cells(cells: pd.DataFrame, cell: str, other: str, name: str = "accuracy") -> dict[str, float]:
    """Compare one column of two cells seed by seed, see `compare_pairs`."""
    first, second = (cells[cells["cell"] == which].set_index("seed")[name] for which in (cell, other))
    return compare_pairs(first, second)


def adjusted(comparisons: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Drop comparisons without a pair, and adjust the p of the others over all of them."""
    paired = {name: comparison for name, comparison in comparisons.items() if comparison["num_pairs"]}
    p_values = holm([comparison["p_value"] for comparison in paired.values()])
    return {name: row | {"p_holm": float(p)} for (name, row), p in zip(paired.items(), p_values, strict=True)}


# --- sentences ---------------------------------------------------------------------------------------


def interval_of(row: Row, scale: float = 100, digits: int = 1) -> str:
    """Write the interval of a difference."""
    low, high = (signed(scale * row[f"difference_{end}"], digits) for end in ("low", "high"))
    return f"95 % interval {low} to {high}"


def difference_of(row: Row) -> str:
    """Write a difference in points with its interval and adjusted p."""
    if math.isnan(row["difference"]):
        return "no difference can be given"
    text = f"{signed(100 * row['difference'])} points"
    if math.isnan(row["difference_low"]):
        return f"{text} (one seed, no interval)"
    interval = interval_of(row)
    if math.isnan(row["p_holm"]):
        return f"{text} ({interval}; equal in all seeds, not testable)"
    return f"{text} ({interval}, Holm-adjusted {p_of(row['p_holm'])})"


def verdict_of(row: Row) -> str:
    """Write the difference and what it allows to say."""
    return difference_of(row) + SAID[judge(row)]


def compared_with_reference(rows: pd.DataFrame) -> list[str]:
    """Give every cell's difference to its reference."""
    return [f"{row['cell']} against {row['reference']}: {verdict_of(row)}." for row in ranked(rows)]


def best_and_worst(what: str, rows: Sequence[Row]) -> list[str]:
    """Give the first and the last of ranked cells."""
    ends = {"Best": rows[:1], "Worst": rows[1:][-1:]}
    return [f"{word} {what}: {row['cell']}, {verdict_of(row)}." for word, part in ends.items() for row in part]


def same_and_unsure(rows: Sequence[Row], same: str = "No difference", unsure: str = "Undecided") -> list[str]:
    """Name the cells without a difference, and those of which nothing can be said."""
    parts = {same: judged(rows, "no difference"), unsure: judged(rows, "undecided")}
    return [f"{what}: {named(part)}." for what, part in parts.items() if part]


def outcomes(parts: Mapping[str, Sequence[Row]], colon: str = "", between: str = "; ") -> str:
    """List cells by what came of an expectation, leaving out what came of none."""
    return between.join(f"{word}{colon} {named(rows)}" for word, rows in parts.items() if rows)
