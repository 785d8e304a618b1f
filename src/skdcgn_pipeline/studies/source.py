"""Who draws which mechanism, teacher or students."""

from __future__ import annotations

from itertools import product

import pandas as pd

from skdcgn_pipeline.metrics.statistics import factorial_effects, judge
from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.studies.contract import Cell, CellData, SourceName, Sources, Students, Study
from skdcgn_pipeline.studies.words import (
    adjusted,
    compare_cells,
    compared_with_reference,
    records_of,
    signed,
    verdict_of,
)
from skdcgn_pipeline.vocabulary import MECHANISMS

COLUMNS = [f"source_{mechanism}" for mechanism in MECHANISMS]


class SourceStudy(Study):
    """Teacher's and students' mechanisms in all mixtures; the reference is the teacher."""

    name = "source"
    title = "Who draws which mechanism"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the eight mixtures."""
        names: tuple[SourceName, SourceName] = ("teacher", "students")
        mixtures = [Sources(**dict(zip(MECHANISMS, mixture, strict=True))) for mixture in product(names, repeat=3)]
        return [Cell(self.name, str(own), "teacher", CellData.composed(settings, sources=own)) for own in mixtures]

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say what it costs to let a student draw each mechanism."""
        sentences = compared_with_reference(rows)
        effects = factorial_effects(cells, "source", "students", "teacher")
        if len(effects):
            how = "averaged over who draws the others"
            swaps = {str(row["effect"]): row for row in records_of(effects[effects["order"] == 1])}
        else:
            how = "the others as they are"
            swaps = _swaps(rows, cells)
        if not swaps:
            return sentences
        order = sorted(swaps, key=lambda name: swaps[name]["difference"])
        sentences += [
            f"{name.capitalize()} by a student instead of the teacher, {how}: {verdict_of(swaps[name])}."
            for name in order
        ]
        most = swaps[order[0]]
        if judge(most) == "lowers":
            lost = signed(100 * most["difference"])
            return [*sentences, f"Most is lost by distilling the {order[0]} mechanism ({lost})."]
        return [*sentences, "No mechanism is shown to lose by distillation."]


def _swaps(rows: pd.DataFrame, cells: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Compare a student with the teacher in one mechanism alone: the others by the teacher, or else by students."""
    cell_of = {tuple(row[column] for column in COLUMNS): row["cell"] for row in records_of(rows)}
    comparisons = {}
    for place, name in enumerate(MECHANISMS):
        for others in ("teacher", "students"):
            with_student, with_teacher = (
                tuple(source if number == place else others for number in range(3))
                for source in ("students", "teacher")
            )
            if with_student in cell_of and with_teacher in cell_of:
                comparisons[name] = compare_cells(cells, cell_of[with_student], cell_of[with_teacher])
                break
    return adjusted(comparisons)
