"""Who draws which mechanism, teacher or students."""

from __future__ import annotations

from itertools import product

import pandas as pd

from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.studies.contract import Cell, SourceName, Sources, Students, Study
from skdcgn_pipeline.studies.words import tell_effects


class SourceStudy(Study):
    """Teacher's and students' mechanisms in all mixtures; the reference is the teacher.

    Two sources have no rows in common: what would be of the row of the shape has a class of its own here.
    """

    name = "source"
    title = "Who draws which mechanism"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the eight mixtures."""
        names: tuple[SourceName, SourceName] = ("teacher", "students")
        mixtures = [Sources(*mixture) for mixture in product(names, repeat=3)]
        composition = settings.composition
        composition = composition.drawing(**dict.fromkeys(composition.needs_rows, "class"))
        return [
            self.cell(settings, str(sources), "teacher", sources=sources, composition=composition)
            for sources in mixtures
        ]

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say what it costs to let a student draw each mechanism."""
        drawn_by = "The {} by a student instead of the teacher"
        return super().claims(rows, cells) + tell_effects(cells, drawn_by, self.name, "students", "teacher")
