"""Trios of students of several sizes."""

from __future__ import annotations

import pandas as pd

from skdcgn_pipeline.metrics.statistics import MARGIN
from skdcgn_pipeline.parameters import Ablation, Student
from skdcgn_pipeline.studies.contract import OWN, Cell, Sources, Students, Study, trio
from skdcgn_pipeline.studies.words import tell_sizes


class SizeStudy(Study):
    """A trio per architecture; the reference is the teacher."""

    name = "size"
    title = "Size of the students"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the teacher, and a trio per architecture."""
        cells = [self.cell(settings, "teacher", "teacher", sources=Sources.all_of("teacher"))]
        for student in settings.size.students:
            name, own = f"students {_architecture(student)}", trio(settings, students, student=student)
            cells.append(self.cell(settings, name, "teacher", sources=Sources.all_of(OWN), students=own))
        return cells

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say how small students may be."""
        sentences = [*super().claims(rows, cells), tell_sizes(rows)]
        students = rows[rows["source"] != "teacher"].sort_values("num_parameters", kind="stable")
        if len(students):
            alike = students["mean_accuracy"] >= students["mean_accuracy"].iloc[-1] - MARGIN
            smallest = students[alike]["cell"].iloc[0]
            sentences.append(f"The smallest students whose mean is within 1 point of the largest are {smallest}.")
        return sentences


def _architecture(student: Student) -> str:
    width = student.width if isinstance(student.width, int) else "-".join(str(number) for number in student.width)
    return f"{student.architecture} {width}"
