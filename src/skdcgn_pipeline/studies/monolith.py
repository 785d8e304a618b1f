"""Three mechanisms, or one network for the finished image."""

from __future__ import annotations

import pandas as pd

from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.studies.contract import MONOLITH, Cell, CellData, Sources, Students, StudentSettings, Study
from skdcgn_pipeline.studies.words import Row, parameters_of, percent, ranked, records_of, verdict_of


class MonolithStudy(Study):
    """A student of the finished image; the reference is a trio distilled at the same budget."""

    name = MONOLITH
    title = "Three mechanisms or one network"
    single_label = True

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the trio and the monolith."""
        trio = CellData.composed(
            settings, sources=Sources.all_of("own"), students=StudentSettings.trio(settings, students)
        )
        budget = {"num_steps": settings.distill.num_steps, "student": settings.monolith.student}
        whole = CellData.composed(settings, sources=None, monolith=students["texture"].model_copy(update=budget))
        return [Cell(self.name, "trio", "trio", trio), Cell(self.name, MONOLITH, "trio", whole)]

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say what decomposition is worth: always three mechanisms minus one network."""
        by_name = {row["cell"]: row for row in records_of(rows)}
        sentences = [
            f"{row['cell']}: {percent(row['mean_accuracy'])} with {parameters_of(row)}." for row in by_name.values()
        ]
        for row in ranked(rows):
            other = by_name[row["reference"]]
            if _is_single(row) == _is_single(other):
                sentences.append(f"{row['cell']} against {row['reference']}: {verdict_of(row)}.")
                continue
            trio, single = (other, row) if _is_single(row) else (row, other)
            sentences.append(
                f"What decomposition is worth, {trio['cell']} ({parameters_of(trio)}) minus {single['cell']} "
                f"({parameters_of(single)}): {verdict_of(_negated(row) if _is_single(row) else row)}."
            )
        return sentences


def _is_single(row: Row) -> bool:
    return not row["source_shape"]


def _negated(row: Row) -> Row:
    """Return the comparison the other way round."""
    turned = {"difference": "difference", "difference_low": "difference_high", "difference_high": "difference_low"}
    return {**row, **{name: -row[source] for name, source in turned.items()}}
