"""Each mechanism counterfactual or factual, in all combinations."""

from __future__ import annotations

from itertools import product

import pandas as pd

from skdcgn_pipeline.parameters import Ablation, Counterfactual
from skdcgn_pipeline.studies.contract import Cell, Students, Study
from skdcgn_pipeline.studies.words import tell_effects
from skdcgn_pipeline.vocabulary import MECHANISMS


class MechanismsStudy(Study):
    """Which mechanisms are counterfactual; in the reference all are."""

    name = "mechanisms"
    title = "Which mechanisms are counterfactual"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the eight combinations."""
        reference = f"counterfactual {' + '.join(MECHANISMS)}"
        cells = []
        for flags in product((True, False), repeat=len(MECHANISMS)):
            by_name = dict(zip(MECHANISMS, flags, strict=True))
            free = " + ".join(name for name, flag in by_name.items() if flag)
            composition = settings.composition.model_copy(update={"counterfactual": Counterfactual(**by_name)})
            name = f"counterfactual {free}" if free else "all factual"
            cells.append(self.cell(settings, name, reference, composition=composition))
        return cells

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say what each mechanism adds and which need each other."""
        return super().claims(rows, cells) + tell_effects(
            cells, "Making {} counterfactual", "counterfactual", True, False
        )
