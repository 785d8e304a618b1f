"""Learning rates by step."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from skdcgn_pipeline.training.schedules import Rates, linear_decay, one_cycle, staircase, warm_up_and_cosine


def test_a_rate_warms_up_and_falls_to_zero():
    schedule = warm_up_and_cosine(100)
    factors = [schedule(step) for step in range(101)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert factors[100] == pytest.approx(0)
    assert all(later <= earlier for earlier, later in pairwise(factors[5:]))
    assert warm_up_and_cosine(1)(0) == 1


def test_a_rate_decays_over_the_last_share():
    schedule = linear_decay(10, 0.5)
    assert [schedule(step) for step in (0, 5, 6, 8, 9)] == pytest.approx([1, 1, 0.8, 0.4, 0.2])
    assert linear_decay(10, 0.0)(9) == 1


def test_a_rate_falls_by_stairs():
    schedule = staircase(9, 2)
    assert [schedule(step) for step in range(9)] == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
def test_one_cycle_is_torchs(num_steps):
    parameter = nn.Parameter(torch.zeros(()))
    ours, theirs = (torch.optim.AdamW([parameter], 0.3, (0.9, 0.99)) for _ in range(2))
    total = max(num_steps + 1, 3)
    expected = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.3, total_steps=total, pct_start=max(0.2, 2 / total))
    rates = Rates(one_cycle(num_steps, 0.2), [ours], one_cycle(num_steps, 0.2, 0.95, 0.85, 0.95))
    for step in range(num_steps):
        rates.set(step)
        group, other = ours.param_groups[0], theirs.param_groups[0]
        assert (group["lr"], *group["betas"]) == pytest.approx((other["lr"], *other["betas"]), rel=1e-12)
        theirs.step()
        expected.step()


def test_every_group_keeps_its_own_highest_rate():
    first, second = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    optimiser = torch.optim.SGD([{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.5}])
    rates = Rates(staircase(4, 1), [optimiser])
    rates.set(3)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.1, 0.05])
    optimiser.load_state_dict(optimiser.state_dict())  # as a training that continues does
    rates.set(0)
    assert [group["lr"] for group in optimiser.param_groups] == [1.0, 0.5]
