"""Terms and temperature of the distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from skdcgn_pipeline.parameters import Ablation, Distill, LossTerm, LossWeights
from skdcgn_pipeline.studies.contract import OWN, Cell, LossChange, Sources, Students, Study, trio
from skdcgn_pipeline.vocabulary import MECHANISMS

ALL_TERMS: LossChange = "all terms"


class LossesStudy(Study):
    """Each loss term removed and alone, and temperatures of the KL term; the reference has all terms."""

    name = "losses"
    title = "Terms and temperature of the distillation"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the reference, two cells per term, and one per temperature."""
        grid = settings.losses
        budget = {"judge_every_steps": grid.judge_every_steps, "num_steps": grid.num_steps}
        base = trio(settings, students, **budget)

        def cell(name: str, loss_change: LossChange, own: Sequence[Distill]) -> Cell:
            data: dict[str, Any] = {"sources": Sources.all_of(OWN), "students": tuple(own)}
            return self.cell(settings, name, ALL_TERMS, {"loss_change": loss_change}, **data)

        by_mechanism = [*zip(MECHANISMS, base, strict=True)]
        return [
            cell(ALL_TERMS, ALL_TERMS, base),
            *(cell(f"without {term}", "without", [_without(term, one) for one in base]) for term in grid.terms),
            *(cell(f"only {term}", "only", [_only(term, m, one) for m, one in by_mechanism]) for term in grid.terms),
            *(
                cell(f"T = {value:g}", "temperature", trio(settings, students, **budget, kl_temperature=value))
                for value in grid.kl_temperatures
                if value != base[0].kl_temperature
            ),
        ]


def _without(term: str, distill: Distill) -> Distill:
    return distill.model_copy(update={"weights": distill.weights.model_copy(update={term: 0.0})})


def _only(term: str, mechanism: str, distill: Distill) -> Distill:
    # Images have no cross-entropy; their pixel term stands in for it.
    left = "pixel" if term == "binary_cross_entropy" and mechanism != "shape" else term
    weights = LossWeights.model_validate({name: float(name == left) for name in get_args(LossTerm)})
    return distill.model_copy(update={"weights": weights})
