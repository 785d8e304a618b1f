"""Each mechanism counterfactual or factual, in all combinations."""

from __future__ import annotations

import math
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skdcgn_pipeline.metrics.statistics import factorial_effects, judge
from skdcgn_pipeline.parameters import Ablation, Counterfactual
from skdcgn_pipeline.studies.contract import Cell, CellData, Students, Study
from skdcgn_pipeline.studies.figures import half_widths
from skdcgn_pipeline.studies.words import Row, difference_of, listed, percent, records_of, signed, verdict_of
from skdcgn_pipeline.vocabulary import MECHANISMS


def _free_mechanisms(row: Row) -> list[str]:
    return [mechanism for mechanism in MECHANISMS if row[f"counterfactual_{mechanism}"]]


class MechanismsStudy(Study):
    """Which mechanisms are counterfactual; in the reference all are."""

    name = "mechanisms"
    title = "Which mechanisms are counterfactual"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the eight combinations."""
        cells: list[Cell] = []
        for flags in product((True, False), repeat=len(MECHANISMS)):
            counterfactual = Counterfactual(**dict(zip(MECHANISMS, flags, strict=True)))
            free = [mechanism for mechanism, flag in zip(MECHANISMS, flags, strict=True) if flag]
            name = f"counterfactual {' + '.join(free)}" if free else "all factual"
            composition = settings.composition.model_copy(update={"counterfactual": counterfactual})
            reference = cells[0].name if cells else name
            cells.append(Cell(self.name, name, reference, CellData.composed(settings, composition=composition)))
        return cells

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw a bar per combination above dots that show which mechanisms are counterfactual."""
        cells = records_of(rows)
        flags = [[not row[f"counterfactual_{mechanism}"] for mechanism in MECHANISMS] for row in cells]
        order = sorted(range(len(cells)), key=lambda place: (-sum(flags[place]), flags[place]))
        rows, cells = rows.iloc[order], [cells[place] for place in order]
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(1.8 + 0.85 * max(len(rows), 5), 5), height_ratios=[3.4, 1], sharex=True, layout="constrained"
        )
        heights, errors = 100 * rows["mean_accuracy"].to_numpy(dtype=float), half_widths(rows)
        shades = plt.get_cmap("Oranges")(0.25 + 0.18 * np.array([len(_free_mechanisms(cell)) for cell in cells]))
        top.bar(range(len(rows)), heights, yerr=errors, capsize=3, color=shades, width=0.75, error_kw={"linewidth": 1})
        for place, (cell, height, error) in enumerate(zip(cells, heights, errors, strict=True)):
            text = f"{height:.1f}"
            if not math.isnan(cell["difference"]):
                text += f"\n({signed(100 * cell['difference'])})"
            elif cell["cell"] == cell["reference"]:
                text += "\nreference"
            top.text(place, height + error + 1, text, ha="center", va="bottom", fontsize=8)
            _draw_dots(bottom, place, _free_mechanisms(cell))
        top.set_ylim(0, max(100, (heights + errors).max() + 14))
        top.set_ylabel("accuracy, % (points to the reference)", fontsize=8)
        top.tick_params(axis="x", bottom=False)
        top.spines[["top", "right"]].set_visible(False)
        bottom.set_yticks(range(3), MECHANISMS, fontsize=8)
        bottom.set_ylim(2.6, -0.6)
        bottom.set_xticks([])
        bottom.set_xlabel("dark: counterfactual, light: factual", fontsize=8)
        bottom.spines[:].set_visible(False)
        bottom.tick_params(length=0)
        return figure

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say which combination is best, what each mechanism adds and which need each other."""
        ordered = records_of(rows.sort_values("mean_accuracy", ascending=False, kind="stable"))
        sentences = [
            f"{word}, counterfactual {' + '.join(_free_mechanisms(row)) or 'none'}: {percent(row['mean_accuracy'])}, "
            + ("the reference." if row["cell"] == row["reference"] else f"{verdict_of(row)}.")
            for word, row in (("Highest", ordered[0]), ("Lowest", ordered[-1]))
        ][: len(ordered)]
        effects = records_of(factorial_effects(cells, "counterfactual", True, False))
        if not effects:
            return [
                *sentences,
                "Main effects need all eight combinations of at least one seed; they are not all there.",
            ]
        sentences += [
            f"Making {effect['effect']} counterfactual, averaged over the other two: {verdict_of(effect)}."
            for effect in effects
            if effect["order"] == 1
        ]
        return [*sentences, _interactions([effect for effect in effects if effect["order"] > 1])]


def _draw_dots(axis: Axes, place: int, free: list[str]) -> None:
    """Draw which mechanisms are counterfactual."""
    colours = ["#333333" if mechanism in free else "#dddddd" for mechanism in MECHANISMS]
    axis.scatter([place] * 3, range(3), s=90, color=colours, zorder=2)
    if len(free) > 1:
        ends = [MECHANISMS.index(free[0]), MECHANISMS.index(free[-1])]
        axis.plot([place, place], ends, color="#333333", linewidth=2, zorder=1)


def _interactions(effects: list[dict]) -> str:
    """Say which mechanisms need or hinder each other."""
    significant = [effect for effect in effects if judge(effect) in ("raises", "lowers")]
    rest = [str(effect["effect"]) for effect in effects if judge(effect) not in ("raises", "lowers")]
    if not significant:
        return "No interaction is significant."
    words = [
        f"{effect['effect']} {difference_of(effect)}, {'more' if effect['difference'] > 0 else 'less'} together"
        for effect in significant
    ]
    return f"Interactions: {'; '.join(words)}." + (f" Not significant: {listed(rest)}." if rest else "")
