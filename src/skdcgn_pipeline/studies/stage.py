"""A transformation when composing, and inside the teacher's own training."""

from __future__ import annotations

from typing import Any

import pandas as pd

from skdcgn_pipeline.parameters import Ablation, Transformations
from skdcgn_pipeline.studies.contract import Cell, Sources, Students, Study, with_added
from skdcgn_pipeline.studies.transformations import against_paper
from skdcgn_pipeline.studies.words import adjusted, called, compare_cells, compared_with_reference, ranked, verdict_of


class StageStudy(Study):
    """Where a transformation acts; the reference is a teacher trained on without one."""

    name = "stage"
    title = "A transformation in composing or in the teacher's training"
    single_label = True

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the reference, and two cells per transformation of the shape."""
        reference = "trained on without transformation"
        plain: dict[str, Any] = {
            "sources": Sources.all_of("teacher"),
            "teacher_transformations": Transformations(),
        }
        cells = [self.cell(settings, reference, reference, **plain)]
        for added in settings.stage.transformations:
            places: dict[str, dict[str, Any]] = {
                "when composing": {"composition": with_added(settings.composition, "shape", added)},
                "in the teacher's training": {"teacher_transformations": Transformations(shape=(added,))},
            }
            factors = {"mechanism": "shape", "transformation": added.kind, "strength": added.strength}
            for place, change in places.items():
                name = f"{added.kind} {added.strength:g} {place}"
                cells.append(self.cell(settings, name, reference, factors, **plain | change))
        return cells

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Compare both with the reference, with each other and with what the paper expects."""
        by_stage = {(row["transformation"], row["strength"], row["stage"]): row for row in rows.to_dict("records")}
        comparisons = {
            f"{row['mechanism']} {called(row)}": compare_cells(
                cells, row["cell"], by_stage[kind, strength, "compose"]["cell"]
            )
            for (kind, strength, stage), row in by_stage.items()
            if stage == "teacher" and (kind, strength, "compose") in by_stage
        }
        return [
            *compared_with_reference(rows),
            *(
                f"{name}, in the teacher's training instead of composing: {verdict_of(row)}."
                for name, row in adjusted(comparisons).items()
            ),
            *against_paper([row for row in ranked(rows) if row["stage"] == "teacher"]),
        ]
