"""Counterfactuals against other remedies for a bias, by the share of training images that are in conflict with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from skdcgn_pipeline.classifiers.methods.contract import Method
from skdcgn_pipeline.classifiers.methods.counterfactuals import StudentsCounterfactuals
from skdcgn_pipeline.classifiers.methods.registry import METHODS, methods_of
from skdcgn_pipeline.metrics.statistics import judge
from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.reporting.pictures import new_figure
from skdcgn_pipeline.runtime.errors import check_choice
from skdcgn_pipeline.studies.contract import Cell, Sources, Students, Study
from skdcgn_pipeline.studies.method_units import CHOICES
from skdcgn_pipeline.studies.words import compared_figures, dashed, markdown_table, percent, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What can be said of a method beside the students' counterfactuals.
VERDICTS = {
    "lowers": "worse than the students' counterfactuals",
    "raises": "better",
    "no difference": "no difference, the interval within 1 point",
    "undecided": "undecided",
}
WITH_GROUPS = CHOICES["groups"]


def title_of(method: type[Method]) -> str:
    """Return what figures call a method: with a star where it needs the group of each training image."""
    return method.title + "*" * method.needs_groups


class AlternativesStudy(Study):
    """A cell per method and share, compared with the students' counterfactuals at that share."""

    name = "alternatives"
    title = "Counterfactuals against the alternatives"
    single_label = True

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the cells share by share, the students' counterfactuals first.

        Raises:
            SettingError: If there is no such method, or it has no such hyperparameter.
        """
        grid = settings.alternatives
        for name in grid.hyperparameters:
            check_choice("ablation.alternatives.hyperparameters", name, METHODS)
        reference: type[Method] = StudentsCounterfactuals
        methods = [reference, *(method for method in methods_of(grid.methods) if method is not reference)]
        tried = {method.name: tuple(grid.hyperparameters.get(method.name, method.grid)) for method in methods}
        for method in methods:
            method.candidates(tried[method.name])
        return [
            self.cell(
                settings,
                f"{title_of(method)}, {100 * share:g} % conflicting",
                f"{title_of(reference)}, {100 * share:g} % conflicting",
                sources=next((Sources.all_of(name) for name in ("teacher", "students") if name in method.uses), None),
                method=method.name,
                hyperparameters=tried[method.name],
                conflicting_share=share,
            )
            for share in grid.conflicting_shares
            for method in methods
        ]

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw accuracy over share, a line per method with its interval; counterfactuals are bold."""
        from matplotlib import colormaps

        figure = new_figure((10, 5.5))
        axis = figure.subplots()
        shares = sorted(rows["conflicting_share"].unique())
        for number, (name, method) in enumerate(METHODS.items()):
            line = rows[rows["method"] == name].sort_values("conflicting_share")
            if line.empty:
                continue
            places = [shares.index(share) for share in line["conflicting_share"]]
            low, mean, high = (100 * line[key] for key in ("interval_low", "mean_accuracy", "interval_high"))
            bold, colour = {"teacher", "students"} & {*method.uses}, colormaps["tab20"](number / len(METHODS))
            style = "--" if name == "unbiased" else "-"
            axis.plot(
                places, mean, style, marker="o", markersize=3, color=colour, linewidth=3 if bold else 1.2,
                label=title_of(method), zorder=3 if bold else 2,
            )  # fmt: skip
            axis.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.set_xticks(range(len(shares)), [f"{100 * share:g}" for share in shares])
        axis.set_xlabel("training images in conflict with the bias, %")
        axis.set_ylabel("accuracy, % (band: 95 % interval)")
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), title="* needs groups", title_fontsize=7)
        return figure

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say of every share what the students' counterfactuals reach, and of every method where it does better."""
        reference = rows[rows["cell"] == rows["reference"]].sort_values("conflicting_share")
        reached = [
            f"{percent(row['mean_accuracy'])} at {100 * row['conflicting_share']:g} %"
            for row in reference.to_dict("records")
        ]
        sentences = [f"Students' counterfactuals, by share of conflicting images: {', '.join(reached)}."]
        sentences += _count_verdicts(rows)
        for name, method in METHODS.items():
            line = rows[(rows["method"] == name) & (rows["cell"] != rows["reference"])]
            if said := _tell_line(line.sort_values("conflicting_share")):
                sentences.append(f"{title_of(method)}: {said}.")
        return sentences + _tell_costs(rows)

    def table(self, summary: pd.DataFrame) -> list[str]:
        """Return a row per method and share: test images, chosen without groups, and what choosing with them gives."""
        names = [
            "method", "conflicting", "accuracy", "95 % interval", "difference", "its interval", "p (Holm)",
            "worst group", "calibration error", "accuracy, chosen with groups", "worst group, chosen with groups",
            "seconds of training", "of making counterfactuals",
        ]  # fmt: skip
        test = summary[summary["split"] == "test"]
        by_subset = {subset: part.set_index("cell") for subset, part in test.groupby("subset")}
        lines = []
        for row in by_subset.get("all", test.iloc[:0]).reset_index().to_dict("records"):

            def share_in(subset: str, cell: str = row["cell"]) -> str:
                part = by_subset.get(subset)
                return percent(part["mean_accuracy"].get(cell, math.nan)) if part is not None else "nan"

            figures = [
                *compared_figures(row),
                share_in("worst group"),
                percent(row["calibration_error"]),
                share_in(f"all{WITH_GROUPS}"),
                share_in(f"worst group{WITH_GROUPS}"),
                *(f"{row.get(cost, math.nan):,.0f}" for cost in ("training_seconds", "making_seconds")),
            ]
            told = [title_of(METHODS[row["method"]]), f"{100 * row['conflicting_share']:g} %"]
            lines.append([*told, *dashed(figures)])
        return ["\\* needs the group of every training image.", "", *markdown_table(names, lines)]


def _count_verdicts(rows: pd.DataFrame) -> list[str]:
    """Say by share how many of the methods that learn from originals alone are worse, better or neither."""
    rivals = rows[rows["method"].isin([name for name, method in METHODS.items() if method.uses == ("originals",)])]
    counted = []
    for share in sorted(rivals["conflicting_share"].unique()):
        verdicts = [judge(row) for row in rivals[rivals["conflicting_share"] == share].to_dict("records")]
        worse, better = verdicts.count("lowers"), verdicts.count("raises")
        counted.append(f"{worse}, {better} and {len(verdicts) - worse - better} at {100 * share:g} %")
    told = f"Of {rivals['method'].nunique()} methods without counterfactuals, so many are worse, better and neither:"
    return [f"{told} {'; '.join(counted)}."] if counted else []


def _tell_costs(rows: pd.DataFrame) -> list[str]:
    """Give the seconds of each method, where they were measured."""
    if "training_seconds" not in rows or rows["training_seconds"].isna().all():
        return []
    costs = rows.groupby("method", sort=False)[["training_seconds", "making_seconds"]].first()
    told = [f"{title_of(METHODS[str(name)])} {cost:,.0f}" for name, cost in costs["training_seconds"].items()]
    sentences = [f"Seconds of one training on one core, as measured now: {', '.join(told)}."]
    if (making := costs["making_seconds"].max()) > 0:
        sentences.append(f"Making the students' counterfactuals takes {making:,.0f} more, once for all classifiers.")
    return sentences


def _tell_line(line: pd.DataFrame) -> str:
    """Say at which shares a method is worse, better, the same or undecided, with the differences in points."""
    said = []
    for verdict, words in VERDICTS.items():
        shares = [
            f"{100 * row['conflicting_share']:g} % ({signed(100 * row['difference'])})"
            for row in line.to_dict("records")
            if judge(row) == verdict
        ]
        said += [f"{words} at {', '.join(shares)}"] if shares else []
    return "; ".join(said)
