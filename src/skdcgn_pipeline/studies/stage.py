"""A transformation when composing, and inside the teacher's own training."""

from __future__ import annotations

from typing import Any

import pandas as pd

from skdcgn_pipeline.parameters import Ablation, Transformations
from skdcgn_pipeline.studies.contract import Cell, CellData, Sources, Students, Study, with_added
from skdcgn_pipeline.studies.transformations import against_paper
from skdcgn_pipeline.studies.words import (
    adjusted,
    called,
    compare_cells,
    compared_with_reference,
    ranked,
    records_of,
    verdict_of,
)


class StageStudy(Study):
    """Where a transformation acts; the reference is a teacher trained on without one."""

    name = "stage"
    title = "A transformation in composing or in the teacher's training"
    single_label = True

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the reference, and two cells per transformation of the shape."""
        reference = "trained on without transformation"
        plain = CellData.composed(
            settings, sources=Sources.all_of("teacher"), teacher_transformations=Transformations()
        )
        cells = [Cell(self.name, reference, reference, plain)]
        for transformation in settings.stage.transformations:
            kind, strength = transformation.kind, transformation.strength
            places: dict[str, dict[str, Any]] = {
                "when composing": {"composition": with_added(settings.composition, "shape", transformation)},
                "in the teacher's training": {"teacher_transformations": Transformations(shape=(transformation,))},
            }
            for place, change in places.items():
                name, data = f"{kind} {strength:g} {place}", plain.model_copy(update=change)
                cells.append(Cell(self.name, name, reference, data, "shape", kind, strength))
        return cells

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Compare both with the reference, with each other and with what the paper expects."""
        comparisons = {}
        for _, group in rows.groupby(["mechanism", "transformation", "strength"], sort=False, dropna=False):
            by_stage = {row["stage"]: row for row in records_of(group)}
            if {"compose", "teacher"} <= set(by_stage):
                trained, composed = by_stage["teacher"], by_stage["compose"]
                if trained["reference"] == composed["cell"]:
                    continue  # is said of the cells already
                name = f"{trained['mechanism']} {called(trained)}" if trained["transformation"] else trained["cell"]
                comparisons[name] = compare_cells(cells, trained["cell"], composed["cell"])
        return [
            *compared_with_reference(rows),
            *(
                f"{name}, in the teacher's training instead of composing: {verdict_of(row)}."
                for name, row in adjusted(comparisons).items()
            ),
            *against_paper([row for row in ranked(rows) if row["stage"] == "teacher"]),
        ]
