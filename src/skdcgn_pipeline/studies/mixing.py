"""Biased originals mixed into the counterfactuals."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from skdcgn_pipeline.metrics.statistics import SIGNIFICANCE
from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.studies.contract import REFERENCE, Cell, CellData, Students, Study
from skdcgn_pipeline.studies.figures import colour_of, half_widths
from skdcgn_pipeline.studies.words import (
    best_and_worst,
    judged,
    outcomes,
    percent,
    ranked,
    records_of,
    same_and_unsure,
)


class MixingStudy(Study):
    """A share of originals in every batch; the reference has none."""

    name = "mixing"
    title = "Originals mixed into the counterfactuals"
    single_label = True

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return a cell per share."""
        cells = [Cell(self.name, REFERENCE, REFERENCE, CellData.composed(settings))]
        for share in settings.mixing.originals_shares:
            if share:
                data = CellData.composed(settings, originals_share=share)
                cells.append(Cell(self.name, f"{share:.0%} originals", REFERENCE, data))
        return cells

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw accuracy over the share of originals, a line per source."""
        figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
        for source, line in rows.dropna(subset=["originals_share"]).groupby("source", sort=False):
            line = line.sort_values("originals_share")
            shares, means, widths = 100 * line["originals_share"], 100 * line["mean_accuracy"], half_widths(line)
            colour = colour_of(records_of(line)[0])
            axis.plot(shares, means, marker="o", color=colour, label=f"counterfactuals: {source}")
            axis.fill_between(shares, means - widths, means + widths, color=colour, alpha=0.18, linewidth=0)
            for share, mean, p in zip(shares, means, line["p_holm"], strict=True):
                text = f"{mean:.1f}{'*' if p < SIGNIFICANCE else ''}"
                axis.annotate(text, (share, mean), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        label = "share of originals in every batch, %  (band: 95 % interval; *: Holm-adjusted p < 0.05)"
        axis.set_xlabel(label, fontsize=8)
        axis.set_ylabel("accuracy, %", fontsize=8)
        axis.margins(y=0.15)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
        return figure

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Hold the shares against CGN's expectation that more originals hurt."""
        shares = rows.dropna(subset=["originals_share"]).sort_values("originals_share", kind="stable")
        several = shares["source"].nunique() > 1
        accuracies = [
            f"{100 * row['originals_share']:g} % {percent(row['mean_accuracy'])}"
            + (f" ({row['source']})" if several else "")
            for row in records_of(shares)
        ]
        sentences = [f"Accuracy by share of originals: {', '.join(accuracies)}."] if accuracies else []
        compared = ranked(rows)
        sentences += [*best_and_worst("mixture", compared), *same_and_unsure(compared)]
        share_of = dict(zip(rows["cell"], rows["originals_share"], strict=True))
        more = [row for row in compared if row["originals_share"] > share_of.get(row["reference"], math.nan)]
        if more:
            parts = {
                "in line": judged(more, "lowers"),
                "contradicted": judged(more, "raises") + judged(more, "no difference"),
                "undecided": judged(more, "undecided"),
            }
            sentences.append(f"CGN expects more originals to hurt: {outcomes(parts)}.")
        return sentences
