"""Three mechanisms, or one network for the finished image."""

from __future__ import annotations

import pandas as pd

from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.studies.contract import MONOLITH, OWN, Cell, Sources, Students, Study, trio
from skdcgn_pipeline.studies.words import compare_cells, tell_comparisons, tell_sizes


class MonolithStudy(Study):
    """A student of the finished image; the reference is a trio distilled at the same budget."""

    name = MONOLITH
    title = "Three mechanisms or one network"
    single_label = True

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the trio and the monolith."""
        budget = {"num_steps": settings.distill.num_steps, "student": settings.monolith.student}
        whole = students["texture"].model_copy(update=budget)
        own = trio(settings, students)
        return [
            self.cell(settings, "trio", "trio", sources=Sources.all_of(OWN), students=own),
            self.cell(settings, MONOLITH, "trio", sources=None, students=(whole,)),
        ]

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say what decomposition is worth: three mechanisms minus one network."""
        worth = {f"What decomposition is worth, trio minus {MONOLITH}": compare_cells(cells, "trio", MONOLITH)}
        return [*super().claims(rows, cells), *tell_comparisons(worth), tell_sizes(rows)]
