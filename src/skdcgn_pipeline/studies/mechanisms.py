"""Each mechanism counterfactual or factual, in all combinations, and with what the shape has of its own."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd

from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.studies.contract import Cell, Students, Study
from skdcgn_pipeline.studies.words import tell_effects
from skdcgn_pipeline.vocabulary import MECHANISMS


class MechanismsStudy(Study):
    """Which mechanisms are counterfactual; in the reference all are. Texture or background may be the shape's own."""

    name = "mechanisms"
    title = "Which mechanisms are counterfactual"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the eight combinations, and two with a mechanism of the shape's own row."""
        origins_of: dict[str, dict[str, Any]] = {}
        for origins in product(("class", "factual"), repeat=len(MECHANISMS)):
            by_name = dict(zip(MECHANISMS, origins, strict=True))
            free = " + ".join(name for name, origin in by_name.items() if origin == "class")
            origins_of[f"counterfactual {free}" if free else "all factual"] = by_name
        for mechanism in ("texture", "background"):
            origins_of[f"{mechanism} of the shape"] = dict.fromkeys(MECHANISMS, "class") | {mechanism: "same"}
        reference = next(iter(origins_of))
        return [
            self.cell(settings, name, reference, composition=settings.composition.drawing(**by_name))
            for name, by_name in origins_of.items()
        ]

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say what each mechanism adds and which need each other."""
        return super().claims(rows, cells) + tell_effects(
            cells, "Making {} counterfactual", "counterfactual", "class", "factual"
        )
