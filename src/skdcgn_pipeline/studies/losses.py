"""Terms and temperature of the distillation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
        base = trio(settings, students, judge_every_steps=grid.judge_every_steps, num_steps=grid.num_steps)

        def cell(name: str, loss_change: LossChange, change: Callable[[str, Distill], dict[str, Any]]) -> Cell:
            own = tuple(one.model_copy(update=change(m, one)) for m, one in zip(MECHANISMS, base, strict=True))
            factors, sources = {"loss_change": loss_change}, Sources.all_of(OWN)
            return self.cell(settings, name, ALL_TERMS, factors, sources=sources, students=own)

        return [
            cell(ALL_TERMS, ALL_TERMS, lambda mechanism, distill: {}),
            *(cell(f"without {term}", "without", partial(_without, term)) for term in grid.terms),
            *(cell(f"only {term}", "only", partial(_only, term)) for term in grid.terms),
            *(
                cell(f"T = {value:g}", "temperature", lambda mechanism, distill, value=value: {"kl_temperature": value})  # type: ignore[misc]
                for value in grid.kl_temperatures
                if value != base[0].kl_temperature
            ),
        ]


def _without(term: str, mechanism: str, distill: Distill) -> dict[str, Any]:
    return {"weights": distill.weights.model_copy(update={term: 0.0})}


def _only(term: str, mechanism: str, distill: Distill) -> dict[str, Any]:
    # Images have no cross-entropy; their pixel term stands in for it.
    left = "pixel" if term == "binary_cross_entropy" and mechanism != "shape" else term
    return {"weights": LossWeights.model_validate({name: float(name == left) for name in get_args(LossTerm)})}
