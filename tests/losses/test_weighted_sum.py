"""No computed term can be dropped, and every weight matters."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.losses import weighted_sum

TERMS = {"pixel": torch.tensor(2.0), "kl": torch.tensor(3.0), "feature": torch.tensor(5.0)}
WEIGHTS = {"pixel": 1.0, "kl": 0.5, "feature": 0.1}


def test_terms_are_added_times_their_weights():
    assert weighted_sum(TERMS, WEIGHTS).item() == pytest.approx(4.0)


def test_the_sum_does_not_depend_on_the_order():
    assert torch.equal(weighted_sum(TERMS, WEIGHTS), weighted_sum(dict(reversed(TERMS.items())), WEIGHTS))


@pytest.mark.parametrize("name", sorted(TERMS))
def test_the_weight_of_every_term_matters(name):
    changed = weighted_sum(TERMS, WEIGHTS | {name: WEIGHTS[name] + 1})
    assert (changed - weighted_sum(TERMS, WEIGHTS)).item() == pytest.approx(TERMS[name].item())


@pytest.mark.parametrize("name", sorted(TERMS))
def test_a_term_without_a_weight_is_refused(name):
    with pytest.raises(AssertionError, match="one weight for each term"):
        weighted_sum(TERMS, {key: value for key, value in WEIGHTS.items() if key != name})


def test_a_weight_without_a_term_is_refused():
    with pytest.raises(AssertionError, match="one weight for each term"):
        weighted_sum(TERMS, WEIGHTS | {"adversarial": 0.0})
