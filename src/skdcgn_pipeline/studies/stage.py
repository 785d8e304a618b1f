"""A transformation when composing, and inside the teacher's own training."""

from __future__ import annotations

from typing import Any

import pandas as pd

from skdcgn_pipeline.parameters import Ablation, Transformations
from skdcgn_pipeline.studies.contract import Cell, Sources, Students, Study, with_added
from skdcgn_pipeline.studies.transformations import EXPECTATION
from skdcgn_pipeline.studies.words import compare_cells, tell_comparisons


class StageStudy(Study):
    """Where a transformation acts; the reference is a teacher trained on without one."""

    name = "stage"
    title = "A transformation in composing or in the teacher's training"
    expectation = EXPECTATION
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
        """Compare both with the reference and with each other."""
        keys = zip(rows["transformation"], rows["strength"], rows["stage"], strict=True)
        by_stage = dict(zip(keys, rows["cell"], strict=True))
        comparisons = {
            f"{kind} {strength:g} in the teacher's training instead of composing": compare_cells(cells, cell, composed)
            for (kind, strength, stage), cell in by_stage.items()
            if stage == "teacher" and (composed := by_stage.get((kind, strength, "compose")))
        }
        return super().claims(rows, cells) + tell_comparisons(comparisons)
