"""One transformation of one mechanism at a time, and combinations of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.metrics.statistics import SIGNIFICANCE
from skdcgn_pipeline.parameters import Ablation, Composition, Transformation
from skdcgn_pipeline.reporting.pictures import new_figure
from skdcgn_pipeline.studies.contract import REFERENCE, Cell, Students, Study, with_added
from skdcgn_pipeline.studies.figures import draw_frame, draw_notice
from skdcgn_pipeline.studies.words import Row, signed
from skdcgn_pipeline.vocabulary import MECHANISMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

EXPECTATION = (
    "The SKDCGN paper expects noise, opacity 0.75 and rotation on the shape mechanism to lower the accuracy slightly, "
    "and none of them to help."
)


class TransformationsStudy(Study):
    """What each transformation does to the accuracy; the reference composes as the settings say."""

    name = "transformations"
    title = "Transformations of one mechanism"
    expectation = EXPECTATION

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return a cell per strength, per combination and per mechanism without patch shift."""
        grid, base = settings.transformations, settings.composition
        cells = [self.cell(settings, REFERENCE)]

        def add(mechanism: str, kind: str, strength: float | None, composition: Composition) -> None:
            name = f"{mechanism} {kind}" + ("" if strength is None else f" {strength:g}")
            factors = {"mechanism": mechanism, "transformation": kind, "strength": strength}
            cells.append(self.cell(settings, name, factors=factors, composition=composition))

        for mechanism in MECHANISMS:
            for row in getattr(grid, mechanism):
                for strength in row.strengths:
                    added = Transformation(kind=row.kind, strength=strength)
                    add(mechanism, row.kind, strength, with_added(base, mechanism, added))
        for several in grid.combined:
            *first, last = several
            kind = " + ".join([*(f"{added.kind} {added.strength:g}" for added in first), last.kind])
            add("shape", kind, last.strength, with_added(base, "shape", *several))
        if grid.without_patch_shift:
            shifted = {"texture": "background", "background": "texture", "texture + background": False}
            for mechanism, still_shifted in shifted.items():
                add(mechanism, "no patch shift", None, base.model_copy(update={"patch_shift": still_shifted}))
        return cells

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw a heat map per mechanism: transformations by strength, coloured by their difference."""
        from matplotlib.colors import SymLogNorm

        rows = rows[rows["cell"] != rows["reference"]]
        if rows.empty:
            return draw_notice("only the reference is there")
        grids = {mechanism: _by_strength(part) for mechanism, part in _by_mechanism(rows).items()}
        widths = [max(len(cells) for cells in grid.values()) for grid in grids.values()]
        tallest = max(len(grid) for grid in grids.values())
        figure = new_figure((1.6 + 1.5 * len(grids) + 0.62 * sum(widths), 1.7 + 0.5 * tallest))
        axes = figure.subplots(1, len(grids), width_ratios=widths, squeeze=False)
        differences = 100 * rows["difference"].to_numpy(dtype=float)
        limit = max([2.0, *np.abs(differences[np.isfinite(differences)])])
        # Logarithmic beyond one point: one cell that fails must not bleach all others.
        norm = SymLogNorm(linthresh=1, vmin=-limit, vmax=limit, base=10)
        for axis, (mechanism, grid), width in zip(axes[0], grids.items(), widths, strict=True):
            table = np.full((tallest, width), math.nan)
            for row, cells in enumerate(grid.values()):
                table[row, : len(cells)] = [100 * cell["difference"] for cell in cells]
                for column, cell in enumerate(cells):
                    _write_cell(axis, column, row, cell, norm)
            image = axis.imshow(table, cmap="RdBu", norm=norm, aspect="auto")
            axis.set_xticks([])
            axis.set_yticks(range(len(grid)), list(grid), fontsize=8)
            axis.set_title(mechanism, fontsize=10)
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
        ticks = sorted({sign * tick for tick in (0, 1, 3, 10, 30, 100) if tick <= limit for sign in (-1, 1)})
        bar = figure.colorbar(image, ax=axes, ticks=ticks, pad=0.01, fraction=0.03)
        bar.set_label("points to the reference", fontsize=10)
        bar.ax.set_yticklabels([signed(tick, 0) for tick in ticks], fontsize=8)
        bar.ax.minorticks_off()
        legend = "columns: rising strength (small) · bold: points to the reference · framed: Holm-adjusted p < 0.05"
        figure.supxlabel(legend, fontsize=8)
        return figure


def _by_mechanism(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the cells of each mechanism, then those of several at a time."""
    names = dict.fromkeys([*MECHANISMS, *rows["mechanism"]])
    return {name: part for name in names if len(part := rows[rows["mechanism"] == name])}


def _by_strength(rows: pd.DataFrame) -> dict[str, list[Row]]:
    """Return the cells of each transformation by rising strength."""
    rising = rows.sort_values("strength", kind="stable")
    return {
        kind: rising[rising["transformation"] == kind].to_dict("records") for kind in rows["transformation"].unique()
    }


def _write_cell(axis: Axes, column: float, row: float, cell: Row, norm: Normalize) -> None:
    """Write strength and difference into a square of a heat map, and frame it where it is significant."""
    difference = 100 * cell["difference"]
    known = not math.isnan(difference)
    colour = "white" if known and abs(float(norm(difference)) - 0.5) > 0.33 else "black"
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
    if not math.isnan(cell["strength"]):
        axis.text(column, row - 0.22, f"{cell['strength']:g}", fontsize=7, **style)
    text = signed(difference) if known else f"{100 * cell['mean_accuracy']:.1f} %"
    axis.text(column, row + 0.14, text, fontsize=8, fontweight="bold" if known else "normal", **style)
    if cell["p_holm"] < SIGNIFICANCE:
        draw_frame(axis, column, row, colour)
