"""Loss terms: pure functions that return one unweighted scalar each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from skdcgn_pipeline.runtime.errors import SettingError


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Add the terms times their weights.

    Raises:
        SettingError: If a computed term has no weight or a weight has no term, so that no term can be
            dropped silently.
    """
    if set(terms) != set(weights):
        raise SettingError(
            "loss weights",
            f"one weight for each term {sorted(terms)}",
            sorted(weights),
            "Give every computed term a weight and every weight a term.",
        )
    # Sorted, so that the sum's rounding does not depend on the order of a dictionary.
    return sum((weights[name] * terms[name] for name in sorted(terms)), start=next(iter(terms.values())).new_zeros(()))
