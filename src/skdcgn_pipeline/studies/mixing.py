"""Biased originals mixed into the counterfactuals."""

from __future__ import annotations

from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.studies.contract import REFERENCE, Cell, Students, Study


class MixingStudy(Study):
    """A share of originals in every batch; the reference has none."""

    name = "mixing"
    title = "Originals mixed into the counterfactuals"
    expectation = "CGN expects more originals to hurt."
    single_label = True

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return a cell per share."""
        shares = [0.0, *(share for share in settings.mixing.originals_shares if share)]
        return [
            self.cell(settings, f"{share:.0%} originals" if share else REFERENCE, originals_share=share)
            for share in shares
        ]
