"""Biased originals mixed into the counterfactuals."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from skdcgn_pipeline.metrics.statistics import SIGNIFICANCE
from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.studies.contract import REFERENCE, Cell, Students, Study
from skdcgn_pipeline.studies.figures import colour_of, half_widths
from skdcgn_pipeline.studies.words import best_and_worst, judged, outcomes, percent, ranked, same_and_unsure


class MixingStudy(Study):
    """A share of originals in every batch; the reference has none."""

    name = "mixing"
    title = "Originals mixed into the counterfactuals"
    single_label = True

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return a cell per share."""
        shares = [0.0, *(share for share in settings.mixing.originals_shares if share)]
        return [
            self.cell(settings, f"{share:.0%} originals" if share else REFERENCE, originals_share=share)
            for share in shares
        ]

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw accuracy over the share of originals."""
        rows = rows.sort_values("originals_share")
        shares, means, widths = 100 * rows["originals_share"], 100 * rows["mean_accuracy"], half_widths(rows)
        figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
        colour = colour_of(rows.iloc[0])
        axis.plot(shares, means, marker="o", color=colour, label=f"counterfactuals: {rows['source'].iloc[0]}")
        axis.fill_between(shares, means - widths, means + widths, color=colour, alpha=0.18, linewidth=0)
        for share, mean, p in zip(shares, means, rows["p_holm"], strict=True):
            text = f"{mean:.1f}{'*' if p < SIGNIFICANCE else ''}"
            axis.annotate(text, (share, mean), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        label = "share of originals in every batch, %  (band: 95 % interval; *: Holm-adjusted p < 0.05)"
        axis.set(xlabel=label, ylabel="accuracy, %")
        axis.margins(y=0.15)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
        return figure

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Hold the shares against CGN's expectation that more originals hurt."""
        compared, shares = ranked(rows), rows.sort_values("originals_share", kind="stable")
        accuracies = [
            f"{100 * share:g} % {percent(accuracy)}"
            for share, accuracy in zip(shares["originals_share"], shares["mean_accuracy"], strict=True)
        ]
        parts = {
            "in line": judged(compared, "lowers"),
            "contradicted": judged(compared, "raises") + judged(compared, "no difference"),
            "undecided": judged(compared, "undecided"),
        }
        return [
            f"Accuracy by share of originals: {', '.join(accuracies)}.",
            *best_and_worst("mixture", compared),
            *same_and_unsure(compared),
            *([f"CGN expects more originals to hurt: {outcomes(parts)}."] if compared else []),
        ]
