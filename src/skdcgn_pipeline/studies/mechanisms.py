"""Each mechanism counterfactual or factual, in all combinations."""

from __future__ import annotations

import math
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skdcgn_pipeline.parameters import Ablation, Counterfactual
from skdcgn_pipeline.studies.contract import Cell, Students, Study
from skdcgn_pipeline.studies.figures import half_widths
from skdcgn_pipeline.studies.words import Row, signed, tell_effects
from skdcgn_pipeline.vocabulary import MECHANISMS


def _free_mechanisms(row: Row) -> list[str]:
    return [mechanism for mechanism in MECHANISMS if row[f"counterfactual_{mechanism}"]]


class MechanismsStudy(Study):
    """Which mechanisms are counterfactual; in the reference all are."""

    name = "mechanisms"
    title = "Which mechanisms are counterfactual"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the eight combinations."""
        reference = f"counterfactual {' + '.join(MECHANISMS)}"
        cells = []
        for flags in product((True, False), repeat=len(MECHANISMS)):
            by_name = dict(zip(MECHANISMS, flags, strict=True))
            free = " + ".join(name for name, flag in by_name.items() if flag)
            composition = settings.composition.model_copy(update={"counterfactual": Counterfactual(**by_name)})
            name = f"counterfactual {free}" if free else "all factual"
            cells.append(self.cell(settings, name, reference, composition=composition))
        return cells

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw a bar per combination above dots that show which mechanisms are counterfactual."""
        factual = ~rows[[f"counterfactual_{mechanism}" for mechanism in MECHANISMS]].to_numpy(dtype=bool)
        # From the fewest counterfactual mechanisms to all.
        order = sorted(range(len(rows)), key=lambda place: (-factual[place].sum(), *factual[place]))
        rows = rows.iloc[order]
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(1.8 + 0.85 * max(len(rows), 5), 5), height_ratios=[3.4, 1], sharex=True, layout="constrained"
        )
        heights, errors = 100 * rows["mean_accuracy"].to_numpy(dtype=float), half_widths(rows)
        shades = plt.get_cmap("Oranges")(0.25 + 0.18 * (~factual[order]).sum(axis=1))
        top.bar(range(len(rows)), heights, yerr=errors, capsize=3, color=shades, width=0.75, error_kw={"linewidth": 1})
        for place, (cell, height, error) in enumerate(zip(rows.to_dict("records"), heights, errors, strict=True)):
            text = f"{height:.1f}"
            if not math.isnan(cell["difference"]):
                text += f"\n({signed(100 * cell['difference'])})"
            elif cell["cell"] == cell["reference"]:
                text += "\nreference"
            top.text(place, height + error + 1, text, ha="center", va="bottom", fontsize=8)
            _draw_dots(bottom, place, _free_mechanisms(cell))
        top.set(ylim=(0, max(100, (heights + errors).max() + 14)), ylabel="accuracy, % (points to the reference)")
        top.tick_params(axis="x", bottom=False)
        top.spines[["top", "right"]].set_visible(False)
        bottom.set_yticks(range(3), MECHANISMS, fontsize=8)
        bottom.set(ylim=(2.6, -0.6), xticks=[], xlabel="dark: counterfactual, light: factual")
        bottom.spines[:].set_visible(False)
        bottom.tick_params(length=0)
        return figure

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say what each mechanism adds and which need each other."""
        return super().claims(rows, cells) + tell_effects(
            cells, "Making {} counterfactual", "counterfactual", True, False
        )


def _draw_dots(axis: Axes, place: int, free: list[str]) -> None:
    colours = ["#333333" if mechanism in free else "#dddddd" for mechanism in MECHANISMS]
    axis.scatter([place] * 3, range(3), s=90, color=colours, zorder=2)
    if len(free) > 1:
        ends = [MECHANISMS.index(free[0]), MECHANISMS.index(free[-1])]
        axis.plot([place, place], ends, color="#333333", linewidth=2, zorder=1)
