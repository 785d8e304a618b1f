"""How many counterfactuals, and how many of each shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skdcgn_pipeline.metrics.statistics import MARGIN, SIGNIFICANCE, compare_pairs, judge
from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.studies.contract import REFERENCE, Cell, CellData, Students, Study
from skdcgn_pipeline.studies.figures import draw_frame, half_widths
from skdcgn_pipeline.studies.words import Row, adjusted, percent, records_of, verdict_of


class CountsStudy(Study):
    """Training sets of a fixed size; the reference composes without end."""

    name = "counts"
    title = "How many counterfactuals, and how many per shape"
    single_label = True

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the reference, and a cell per size and number of each shape."""
        grid = settings.counts
        cells = [Cell(self.name, REFERENCE, REFERENCE, CellData.composed(settings))]
        for size, per_shape in product(grid.dataset_sizes, grid.per_shape):
            data = CellData.composed(settings, dataset_size=size, per_shape=per_shape)
            cells.append(Cell(self.name, f"{size} images, {per_shape} of each shape", REFERENCE, data))
        return cells

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw accuracy by ratio and dataset size as a heat map, and beside it as lines."""
        sizes, lines = _values(rows, "dataset_size"), _lines_of(rows)
        figure, (left, right) = plt.subplots(
            1,
            2,
            figsize=(6.6 + 0.95 * len(sizes), 1.6 + max(2.4, 0.55 * len(lines))),
            width_ratios=[1.6 + len(sizes), 5.5],
            layout="constrained",
        )
        _draw_table(left, lines, sizes)
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(lines)))
        for (name, line), colour in zip(lines.items(), colours, strict=True):
            finite, unlimited = line[line["dataset_size"].notna()], line[line["dataset_size"].isna()]
            if len(finite):
                curve = finite["dataset_size"], 100 * finite["mean_accuracy"], half_widths(finite)
                right.errorbar(*curve, marker="o", capsize=3, color=colour, label=name)
            for mean, width in zip(100 * unlimited["mean_accuracy"], half_widths(unlimited), strict=True):
                right.axhline(mean, color=colour, linestyle="--", linewidth=1.2, label=f"{name}, unlimited")
                right.axhspan(mean - width, mean + width, color=colour, alpha=0.12, linewidth=0)
        right.set_xscale("log")
        right.set_xlabel("dataset size, images", fontsize=8)
        right.set_ylabel("accuracy, %", fontsize=8)
        right.set_title("95 % intervals", fontsize=9)
        right.grid(alpha=0.25)
        right.legend(fontsize=7)
        return figure

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say what more images buy, and more of each shape, against CGN's expectations."""
        sentences = [
            *_means_by(rows, "dataset size", "dataset_size", _named_size),
            *_means_by(rows, "ratio", "per_shape", _named_ratio),
        ]
        sizes, ratios = rows["dataset_size"].dropna(), rows["per_shape"].dropna()
        comparisons = {}
        if sizes.nunique() > 1:
            comparisons["size"] = _contrast(cells, "dataset_size", sizes.max(), sizes.min())
        if len(sizes) and rows["dataset_size"].isna().any():
            comparisons["unlimited"] = _contrast(cells, "dataset_size", math.nan, sizes.max())
        if ratios.nunique() > 1:
            comparisons["ratio"] = _contrast(cells, "per_shape", ratios.max(), ratios.min())
        for name, row in adjusted(comparisons).items():
            if name == "size":
                what = f"{_named_size(sizes.max())} instead of {_named_size(sizes.min())} images, at equal ratios"
                outcome = {"raises": "in line", "undecided": "undecided"}.get(judge(row), "contradicted")
                expected = f" CGN expects the dataset size to matter: {outcome}."
            elif name == "ratio":
                what = f"{ratios.max():g} instead of {ratios.min():g} per shape, at equal sizes"
                expected = f" CGN expects the ratio barely to matter: {_barely(row)}."
            else:
                what, expected = f"Unlimited instead of {_named_size(sizes.max())} images", ""
            sentences.append(f"{what}: {verdict_of(row)}.{expected}")
        return sentences


def _named_ratio(value: float) -> str:
    return "fresh shapes" if math.isnan(value) else f"{value:g} per shape"


def _named_size(value: float) -> str:
    return "unlimited" if math.isnan(value) else f"{value:,.0f}"


def _values(rows: pd.DataFrame, column: str) -> list[float]:
    """Return the values of a column, rising, NaN (no fixed one) last."""
    return sorted(rows[column].unique(), key=lambda value: (math.isnan(value), value))


def _equal(values: pd.Series, value: float) -> pd.Series:
    return values.isna() if math.isnan(value) else values == value


def _lines_of(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the cells of each ratio, and of each source where there are several."""
    several = rows["source"].nunique() > 1
    return {
        _named_ratio(ratio) + (f", {source}" if several else ""): part[_equal(part["per_shape"], ratio)].sort_values(
            "dataset_size"
        )
        for source, part in rows.groupby("source", sort=False)
        for ratio in _values(part, "per_shape")
    }


def _draw_table(axis: Axes, lines: dict[str, pd.DataFrame], sizes: list[float]) -> None:
    """Draw accuracy by ratio (rows) and dataset size (columns) as a heat map."""
    places = {_named_size(size): place for place, size in enumerate(sizes)}
    table = np.full((len(lines), len(sizes)), math.nan)
    for row, line in enumerate(lines.values()):
        table[row, [places[_named_size(size)] for size in line["dataset_size"]]] = 100 * line["mean_accuracy"]
    image = axis.imshow(table, cmap="YlGnBu", aspect="auto")
    for row, line in enumerate(lines.values()):
        for cell, width in zip(records_of(line), half_widths(line), strict=True):
            column = places[_named_size(cell["dataset_size"])]
            colour = "white" if np.asarray(image.norm(table[row, column])) > 0.6 else "black"
            text = f"{table[row, column]:.1f}\n± {width:.1f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
            if cell["p_holm"] < SIGNIFICANCE:
                draw_frame(axis, column, row, colour)
    axis.set_xticks(range(len(sizes)), list(places), fontsize=8)
    axis.set_yticks(range(len(lines)), list(lines), fontsize=8)
    axis.set_xlabel("dataset size, images", fontsize=8)
    axis.set_title("accuracy, % (framed: Holm-adjusted p < 0.05)", fontsize=9)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _means_by(rows: pd.DataFrame, what: str, column: str, write: Callable[[float], str]) -> list[str]:
    """Give the mean accuracy of each value of a column."""
    values = _values(rows, column)
    means = [rows.loc[_equal(rows[column], value), "mean_accuracy"].mean() for value in values]
    words = ", ".join(f"{write(value)} {percent(mean)}" for value, mean in zip(values, means, strict=True))
    return [f"Mean accuracy by {what}: {words}."] if len(values) > 1 else []


def _contrast(cells: pd.DataFrame, column: str, high: float, low: float) -> dict[str, float]:
    """Compare two values of a column seed by seed, averaged over the values of the other that both have.

    Without a common value of the other (unlimited sets have no ratio), the means of each seed are compared.
    """
    other = "per_shape" if column == "dataset_size" else "dataset_size"
    filled = cells.assign(**{other: cells[other].fillna(math.inf)})  # as an index, NaN would equal nothing
    first, second = (
        filled[_equal(filled[column], value)].groupby(["seed", other])["accuracy"].mean() for value in (high, low)
    )
    if set(first.index) & set(second.index):
        differences = (first - second).dropna().groupby("seed").mean()
        return compare_pairs(differences, differences * 0)
    return compare_pairs(first.groupby("seed").mean(), second.groupby("seed").mean())


def _barely(row: Row) -> str:
    """Hold the gain by another ratio against CGN's expectation that there is next to none."""
    low, high = row["difference_low"], row["difference_high"]
    if low > -MARGIN and high < MARGIN:
        return "in line, within 1 point"
    if judge(row) in ("raises", "lowers") and (low > MARGIN or high < -MARGIN):
        return "contradicted, more than 1 point"
    return "undecided"
