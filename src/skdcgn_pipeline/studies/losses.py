"""Terms and temperature of the distillation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from skdcgn_pipeline.parameters import Ablation, Distill, LossWeights
from skdcgn_pipeline.studies.contract import OWN, Cell, LossChange, Sources, Students, Study, trio
from skdcgn_pipeline.studies.figures import draw_points
from skdcgn_pipeline.vocabulary import MECHANISMS

ALL_TERMS: LossChange = "all terms"
COLOUR_OF_CHANGE = {ALL_TERMS: "#333333", "without": "#d9822b", "only": "#3b6ea5", "temperature": "#6a9a5b"}
DISTANCES = {"l1_foreground": "o", "l1_background": "x"}


class LossesStudy(Study):
    """Each loss term removed and alone, and temperatures of the KL term; the reference has all terms."""

    name = "losses"
    title = "Terms and temperature of the distillation"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the reference, two cells per term, and one per temperature."""
        grid = settings.losses
        base = trio(settings, students, judge_every_steps=grid.judge_every_steps, num_steps=grid.num_steps)

        def cell(name: str, loss_change: LossChange, change: Callable[[str, Distill], dict[str, Any]]) -> Cell:
            own = tuple(one.model_copy(update=change(m, one)) for m, one in zip(MECHANISMS, base, strict=True))
            factors, sources = {"loss_change": loss_change}, Sources.all_of(OWN)
            return self.cell(settings, name, ALL_TERMS, factors, sources=sources, students=own)

        return [
            cell(ALL_TERMS, ALL_TERMS, lambda mechanism, distill: {}),
            *(cell(f"without {term}", "without", partial(_without, term)) for term in grid.terms),
            *(cell(f"only {term}", "only", partial(_only, term)) for term in grid.terms),
            *(
                cell(f"T = {value:g}", "temperature", lambda mechanism, distill, value=value: {"kl_temperature": value})  # type: ignore[misc]
                for value in grid.kl_temperatures
                if value != base[0].kl_temperature
            ),
        ]

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw accuracy and fidelity of the students of every choice of terms."""
        order = [*COLOUR_OF_CHANGE]
        rows = rows.sort_values("loss_change", key=lambda changes: changes.map(order.index), kind="stable")
        colours = [COLOUR_OF_CHANGE[change] for change in rows["loss_change"]]
        size = (5.6 + 2.9 * 2, 1.6 + 0.32 * len(rows))
        figure, axes = plt.subplots(1, 3, sharey=True, layout="constrained", figsize=size, width_ratios=[1.5, 1, 1])
        accuracy, likeness, distance = axes
        draw_points(accuracy, rows, colours)
        places = range(len(rows))
        likeness.scatter(rows["mask_iou"], places, color=colours, zorder=3)
        likeness.set_xlabel("mask IoU, student to teacher (higher is better)")
        for name, marker in DISTANCES.items():
            label = name.removeprefix("l1_")
            distance.scatter(rows[name], places, color=colours, marker=marker, label=label, zorder=3)
        distance.set_xlabel("L1, student to teacher (lower is better)")
        distance.legend(fontsize=7)
        breaks = [place + 0.5 for place, (this, after) in enumerate(pairwise(rows["loss_change"])) if this != after]
        for axis in axes:
            for place in breaks:
                axis.axhline(place, color="#bbbbbb", linewidth=0.8)
            axis.margins(x=0.05)
        return figure


def _without(term: str, mechanism: str, distill: Distill) -> dict[str, Any]:
    return {"weights": distill.weights.model_copy(update={term: 0.0})}


def _only(term: str, mechanism: str, distill: Distill) -> dict[str, Any]:
    # Images have no cross-entropy; their pixel term stands in for it.
    left = "pixel" if term == "binary_cross_entropy" and mechanism != "shape" else term
    return {"weights": LossWeights(**{name: float(name == left) for name in LossWeights.model_fields})}
