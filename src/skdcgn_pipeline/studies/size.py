"""Trios of students of several sizes."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from skdcgn_pipeline.metrics.statistics import MARGIN
from skdcgn_pipeline.parameters import Ablation, Student
from skdcgn_pipeline.studies.contract import OWN, Cell, Sources, Students, Study, trio
from skdcgn_pipeline.studies.figures import colour_of, half_widths
from skdcgn_pipeline.studies.words import tell_sizes


class SizeStudy(Study):
    """A trio per architecture; the reference is the teacher."""

    name = "size"
    title = "Size of the students"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the teacher, and a trio per architecture."""
        cells = [self.cell(settings, "teacher", "teacher", sources=Sources.all_of("teacher"))]
        for student in settings.size.students:
            data: dict[str, Any] = {
                "sources": Sources.all_of(OWN),
                "students": trio(settings, students, student=student),
            }
            cells.append(self.cell(settings, f"students {_architecture(student)}", "teacher", **data))
        return cells

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw accuracy and mask IoU over the generator's parameters."""
        rows = rows.sort_values("num_parameters")
        num_panels = 2 if rows["mask_iou"].notna().any() else 1
        figure, axes = plt.subplots(
            1,
            num_panels,
            figsize=(2.8 + 4.2 * num_panels, 4.2),
            width_ratios=[1.5, 1][:num_panels],
            squeeze=False,
            layout="constrained",
        )
        axis = axes[0, 0]
        for source, line in rows.groupby("source", sort=False):
            colour, parameters = colour_of(line.iloc[0]), line["num_parameters"]
            means, widths, marker = 100 * line["mean_accuracy"], half_widths(line), "D" if source == "teacher" else "o"
            axis.errorbar(parameters, means, widths, marker=marker, capsize=3, color=colour, label=source)
            if source == "teacher":
                axis.axhline(means.iloc[0], color=colour, linewidth=0.8, linestyle="--")
            for place, low, cell in zip(parameters, means - widths, line["cell"], strict=True):
                style = {"textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 7}
                axis.annotate(cell, (place, low), (0, -5), **style)
            if line["mask_iou"].notna().any():
                axes[0, 1].plot(parameters, line["mask_iou"], marker="o", color=colour, label=source)
        axis.legend(fontsize=8)
        for panel, label in zip(axes[0], ("accuracy, % (95 % interval)", "mask IoU, student to teacher"), strict=False):
            panel.set(xscale="log", xlabel="parameters of the generator (logarithmic)", ylabel=label)
            panel.margins(x=0.12, y=0.15)
            panel.grid(alpha=0.25, which="both")
        return figure

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say how small students may be."""
        sentences = [*super().claims(rows, cells), tell_sizes(rows)]
        students = rows[rows["source"] != "teacher"].sort_values("num_parameters", kind="stable")
        if students.empty:
            return sentences
        largest = students["mean_accuracy"].iloc[-1]
        smallest = students[students["mean_accuracy"] >= largest - MARGIN].iloc[0]
        return [
            *sentences,
            f"The smallest students whose mean is within 1 point of the largest are {smallest['cell']}.",
        ]


def _architecture(student: Student) -> str:
    width = student.width if isinstance(student.width, int) else "-".join(str(number) for number in student.width)
    return f"{student.architecture} {width}"
