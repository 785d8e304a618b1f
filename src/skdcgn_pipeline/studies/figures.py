"""What the figures of studies share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.metrics.statistics import SIGNIFICANCE
from skdcgn_pipeline.reporting.pictures import COLOUR_OF, new_figure
from skdcgn_pipeline.studies.contract import OWN
from skdcgn_pipeline.studies.words import Row, signed
from skdcgn_pipeline.vocabulary import MECHANISMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {"axes.labelsize": 8, "axes.titlesize": 9}
MIXTURE_COLOUR, OTHER_COLOUR = "#6a9a5b", "#8e5ea2"
DISTANCES = {"l1_foreground": "o", "l1_background": "x"}


def colour_of(row: Row | pd.Series) -> str:
    """Return the colour of whoever draws a cell's mechanisms."""
    sources = {row.get(f"source_{mechanism}", row["source"]) for mechanism in MECHANISMS}  # by hand: of the whole
    if len(sources) > 1:
        return MIXTURE_COLOUR
    source = str(sources.pop())
    return COLOUR_OF.get("students" if source == OWN else source, OTHER_COLOUR)


def half_widths(rows: pd.DataFrame) -> np.ndarray:
    """Return half the 95 % intervals in points, 0 where one seed gives none."""
    return np.nan_to_num(100 * (rows["interval_high"] - rows["mean_accuracy"]).to_numpy(dtype=float))


def draw_notice(text: str, height: float = 0.3) -> Figure:
    """Draw nothing but a text."""
    figure = new_figure((7, 1.2), layout=None)
    figure.text(0.5, height, text, ha="center", va="center", fontsize=9)
    return figure


def draw_frame(axis: Axes, column: float, row: float, colour: str) -> None:
    """Frame a square of a heat map."""
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=colour, linewidth=1.6))


def draw_intervals(rows: pd.DataFrame) -> Figure:
    """Draw a row per cell: mean accuracy, its interval and the difference; beside it how alike students are."""
    alike = rows["mask_iou"].notna().any() if "mask_iou" in rows else False
    size = (9 + 4 * int(alike), 1.5 + 0.36 * len(rows))
    widths = [1.5, 1, 1] if alike else [1]
    figure = new_figure(size)
    axes = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)
    colours = [colour_of(row) for row in rows.to_dict("records")]
    _draw_accuracy(axes[0, 0], rows, colours)
    if alike:
        _, likeness, distance = axes[0]
        likeness.scatter(rows["mask_iou"], range(len(rows)), color=colours, zorder=3)
        likeness.set_xlabel("mask IoU, student to teacher (higher is better)")
        for name, marker in DISTANCES.items():
            label = name.removeprefix("l1_")
            distance.scatter(rows[name], range(len(rows)), color=colours, marker=marker, label=label, zorder=3)
        distance.set_xlabel("L1, student to teacher (lower is better)")
        distance.legend(fontsize=7)
    return figure


def _draw_accuracy(axis: Axes, rows: pd.DataFrame, colours: Sequence[str]) -> None:
    means = 100 * rows["mean_accuracy"].to_numpy(dtype=float)
    for place, (cell, mean, half_width, colour) in enumerate(
        zip(rows.to_dict("records"), means, half_widths(rows), colours, strict=True)
    ):
        axis.errorbar(mean, place, xerr=half_width, fmt="o", color=colour, capsize=3, linewidth=1.5, zorder=3)
        text = f"{mean:.1f}"
        if not math.isnan(cell["difference"]):
            text += f"  ({signed(100 * cell['difference'])}{'*' if cell['p_holm'] < SIGNIFICANCE else ''})"
        elif cell["cell"] == cell["reference"]:
            text += "  reference"
            axis.axvline(mean, color="#999999", linewidth=0.8, linestyle="--")
        axis.text(1.02, place, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [textwrap.fill(str(cell), 44) for cell in rows["cell"]], fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel("accuracy, % (95 % interval; *: Holm-adjusted p < 0.05)")
    axis.grid(axis="x", alpha=0.25)
    axis.margins(x=0.08)
