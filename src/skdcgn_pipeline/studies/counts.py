"""How many counterfactuals, and how many of each shape."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.metrics.statistics import SIGNIFICANCE, compare_pairs
from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.reporting.pictures import new_figure
from skdcgn_pipeline.studies.contract import REFERENCE, Cell, Students, Study
from skdcgn_pipeline.studies.figures import draw_frame, half_widths
from skdcgn_pipeline.studies.words import tell_comparisons

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CountsStudy(Study):
    """Training sets of a fixed size; the reference composes without end."""

    name = "counts"
    title = "How many counterfactuals, and how many per shape"
    expectation = "CGN expects the number of images to matter, and that of each shape barely."
    single_label = True

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the reference, and a cell per size and number of each shape."""
        grid = product(settings.counts.dataset_sizes, settings.counts.per_shape)
        return [
            self.cell(settings, REFERENCE),
            *(
                self.cell(settings, f"{size} images, {ratio} of each shape", dataset_size=size, per_shape=ratio)
                for size, ratio in grid
            ),
        ]

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw accuracy by ratio (rows) and dataset size (columns) as a heat map."""
        rows = _endless_as_infinite(rows)
        table = 100 * rows.pivot(index="per_shape", columns="dataset_size", values="mean_accuracy")
        size = (2.6 + 1.3 * table.shape[1], 1.6 + max(2.4, 0.55 * table.shape[0]))
        figure = new_figure(size)
        axis = figure.subplots()
        image = axis.imshow(table.to_numpy(), cmap="YlGnBu", aspect="auto")
        for cell, width in zip(rows.to_dict("records"), half_widths(rows), strict=True):
            row, column = [*table.index].index(cell["per_shape"]), [*table.columns].index(cell["dataset_size"])
            accuracy = 100 * cell["mean_accuracy"]
            colour = "white" if np.asarray(image.norm(accuracy)) > 0.6 else "black"
            text = f"{accuracy:.1f}\n± {width:.1f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
            if cell["p_holm"] < SIGNIFICANCE:
                draw_frame(axis, column, row, colour)
        axis.set_xticks(range(table.shape[1]), [_size(size) for size in table.columns], fontsize=8)
        axis.set_yticks(range(table.shape[0]), [_ratio(ratio) for ratio in table.index], fontsize=8)
        axis.set(xlabel="dataset size, images", title="accuracy, % (framed: Holm-adjusted p < 0.05)")
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        return figure

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say what more images buy, and more of each shape."""
        cells = _endless_as_infinite(cells)
        sizes, ratios = (
            sorted(cells.loc[cells[name] < math.inf, name].unique()) for name in ("dataset_size", "per_shape")
        )
        comparisons = {}
        if sizes:
            for high, low in ((sizes[-1], sizes[0]), (math.inf, sizes[-1])):
                what = f"{_size(high)} instead of {_size(low)} images"
                comparisons[what] = _contrast(cells, "dataset_size", high, low)
            what = f"{ratios[-1]:g} instead of {ratios[0]:g} per shape, at equal sizes"
            comparisons[what] = _contrast(cells, "per_shape", ratios[-1], ratios[0])
        return super().claims(rows, cells) + tell_comparisons(comparisons)


def _endless_as_infinite(frame: pd.DataFrame) -> pd.DataFrame:
    """Return cells without a fixed size as such of infinitely many images, each of a fresh shape."""
    return frame.fillna({"per_shape": math.inf, "dataset_size": math.inf})


def _ratio(value: Any) -> str:
    return "fresh shapes" if value == math.inf else f"{value:g} per shape"


def _size(value: Any) -> str:
    return "unlimited" if value == math.inf else f"{value:,.0f}"


def _contrast(cells: pd.DataFrame, column: str, high: float, low: float) -> dict[str, float]:
    """Compare two values of a column seed by seed, averaged over the values of the other that both have.

    Without a common value of the other (unlimited sets have no ratio), the means of each seed are compared.
    """
    other = "per_shape" if column == "dataset_size" else "dataset_size"
    first, second = (cells[cells[column] == value].groupby(["seed", other])["accuracy"].mean() for value in (high, low))
    if set(first.index) & set(second.index):
        differences = (first - second).dropna().groupby("seed").mean()
        return compare_pairs(differences, differences * 0)
    return compare_pairs(first.groupby("seed").mean(), second.groupby("seed").mean())
