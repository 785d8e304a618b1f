"""Terms and temperature of the distillation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from skdcgn_pipeline.parameters import Ablation, Distill, LossWeights
from skdcgn_pipeline.studies.contract import Cell, CellData, LossChange, Sources, Students, StudentSettings, Study
from skdcgn_pipeline.studies.figures import draw_points
from skdcgn_pipeline.studies.words import (
    adjusted,
    best_and_worst,
    compare_cells,
    p_of,
    ranked,
    same_and_unsure,
    signed,
    verdict_of,
)
from skdcgn_pipeline.vocabulary import MECHANISMS

ALL_TERMS: LossChange = "all terms"
COLOUR_OF_CHANGE = {ALL_TERMS: "#333333", "without": "#d9822b", "only": "#3b6ea5", "temperature": "#6a9a5b"}
OTHER_COLOUR = "#9a9a9a"
DISTANCES = {"l1_foreground": "o", "l1_background": "x"}


class LossesStudy(Study):
    """Each loss term removed and alone, and temperatures of the KL term; the reference has all terms."""

    name = "losses"
    title = "Terms and temperature of the distillation"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the reference, two cells per term, and one per temperature."""
        grid = settings.losses
        base = StudentSettings.trio(
            settings, students, judge_every_steps=grid.judge_every_steps, num_steps=grid.num_steps
        )

        def cell(name: str, loss_change: LossChange, change: Callable[[str, Distill], dict[str, Any]]) -> Cell:
            trio = {m: getattr(base, m).model_copy(update=change(m, getattr(base, m))) for m in MECHANISMS}
            data = CellData.composed(settings, sources=Sources.all_of("own"), students=StudentSettings(**trio))
            return Cell(self.name, name, ALL_TERMS, data, loss_change=loss_change)

        def without(term: str) -> Cell:
            return cell(
                f"without {term}",
                "without",
                lambda mechanism, distill: {"weights": distill.weights.model_copy(update={term: 0.0})},
            )

        def only(term: str) -> Cell:
            def change(mechanism: str, distill: Distill) -> dict[str, Any]:
                # Images have no cross-entropy; their pixel term stands in for it.
                left = "pixel" if term == "binary_cross_entropy" and mechanism != "shape" else term
                return {"weights": LossWeights(**{name: float(name == left) for name in LossWeights.model_fields})}

            return cell(f"only {term}", "only", change)

        return [
            cell(ALL_TERMS, ALL_TERMS, lambda mechanism, distill: {}),
            *(without(term) for term in grid.terms),
            *(only(term) for term in grid.terms),
            *(
                cell(f"T = {value:g}", "temperature", lambda mechanism, distill, value=value: {"kl_temperature": value})  # type: ignore[misc]
                for value in grid.kl_temperatures
                if value != base.shape.kl_temperature
            ),
        ]

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw accuracy and fidelity of the students of every choice of terms."""
        known = [*COLOUR_OF_CHANGE, ""]
        rows = rows.iloc[np.argsort([known.index(change) for change in rows["loss_change"]], kind="stable")]
        colours = [COLOUR_OF_CHANGE.get(change, OTHER_COLOUR) for change in rows["loss_change"]]
        distances = [name for name in DISTANCES if rows[name].notna().any()]
        has_iou = bool(rows["mask_iou"].notna().any())
        num_others = has_iou + bool(distances)
        figure, axes = plt.subplots(
            1,
            1 + num_others,
            figsize=(5.6 + 2.9 * num_others, 1.6 + 0.32 * len(rows)),
            width_ratios=[1.5] + [1] * num_others,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        accuracy, *others = axes[0]
        draw_points(accuracy, rows, colours)
        places = range(len(rows))
        if has_iou:
            axis = others.pop(0)
            axis.scatter(rows["mask_iou"], places, color=colours, zorder=3)
            axis.set_xlabel("mask IoU, student to teacher (higher is better)", fontsize=8)
        for name in distances:
            label = name.removeprefix("l1_")
            others[0].scatter(rows[name], places, color=colours, marker=DISTANCES[name], label=label, zorder=3)
        if distances:
            others[0].set_xlabel("L1, student to teacher (lower is better)", fontsize=8)
            others[0].legend(fontsize=7)
        breaks = [place + 0.5 for place, (one, next_) in enumerate(pairwise(rows["loss_change"])) if one != next_]
        for axis in axes[0]:
            for place in breaks:
                axis.axhline(place, color="#bbbbbb", linewidth=0.8)
            axis.margins(x=0.05)
        return figure

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say which removals cost most and least, and which temperature is best."""
        compared = ranked(rows)
        without, only, temperatures = (
            [row for row in compared if row["loss_change"] == change] for change in ("without", "only", "temperature")
        )
        sentences = []
        if without:
            sentences.append(
                f"The removal that costs most accuracy is {without[-1]['cell']}: {verdict_of(without[-1])}."
            )
        if len(without) > 1:
            sentences.append(f"The removal that costs least is {without[0]['cell']}: {verdict_of(without[0])}.")
        return [
            *sentences,
            *same_and_unsure(without, "No difference by removal", "Undecided removals"),
            *_cost_in_iou(without, cells),
            *best_and_worst("single term", only),
            *best_and_worst("temperature", temperatures),
        ]


def _cost_in_iou(rows: Sequence[dict[str, Any]], cells: pd.DataFrame) -> list[str]:
    """Say whose removal costs most and least mask IoU, seed by seed."""
    comparisons = {row["cell"]: compare_cells(cells, row["cell"], row["reference"], "mask_iou") for row in rows}
    order = sorted(adjusted(comparisons).items(), key=lambda item: item[1]["difference"])
    if not order:
        return []

    def words(name: str, row: dict[str, float]) -> str:
        text = f"{name} ({signed(row['difference'], 3)}"
        if math.isnan(row["p_holm"]):
            return f"{text})"
        interval = f"{signed(row['difference_low'], 3)} to {signed(row['difference_high'], 3)}"
        return f"{text}, 95 % interval {interval}, Holm-adjusted {p_of(row['p_holm'])})"

    least = f", least by {words(*order[-1])}" if len(order) > 1 else ""
    return [f"The mask IoU is changed most by {words(*order[0])}{least}."]
