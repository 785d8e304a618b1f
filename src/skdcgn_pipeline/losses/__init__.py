"""Loss terms: pure functions that return one unweighted scalar each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Add the terms times their weights, of which each has one, so that no term can be dropped silently."""
    assert terms.keys() == weights.keys(), f"one weight for each term {sorted(terms)}, got {sorted(weights)}"
    # Sorted, so that the sum's rounding does not depend on the order of a dictionary.
    return sum((weights[name] * terms[name] for name in sorted(terms)), start=next(iter(terms.values())).new_zeros(()))
