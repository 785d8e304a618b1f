"""The average follows its network slowly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skdcgn_pipeline.training.averaging import WeightAverage


def network(value: float) -> nn.Linear:
    linear = nn.Linear(1, 1, bias=False)
    nn.init.constant_(linear.weight, value)
    return linear


def test_the_average_starts_as_a_frozen_copy_in_eval_mode():
    linear = network(2.0).train()
    average = WeightAverage(linear, 0.9).average
    assert average is not linear
    assert average.weight.item() == 2.0
    assert not average.training
    assert not average.weight.requires_grad


def test_an_update_moves_the_average_by_the_rest_of_the_decay():
    linear = network(0.0)
    average = WeightAverage(linear, 0.9)
    nn.init.constant_(linear.weight, 1.0)
    average.update(1000)
    assert average.average.weight.item() == pytest.approx(0.1)
    average.update(1001)
    assert average.average.weight.item() == pytest.approx(0.19)


def test_early_steps_forget_faster():
    linear = network(0.0)
    average = WeightAverage(linear, 0.999)
    nn.init.constant_(linear.weight, 1.0)
    average.update(0)
    assert average.average.weight.item() == pytest.approx(0.9)


def test_without_decay_the_average_is_the_network():
    linear = network(0.0)
    average = WeightAverage(linear, 0.0)
    nn.init.constant_(linear.weight, 3.0)
    average.update(5)
    assert average.average.weight.item() == 3.0


def test_running_statistics_are_averaged_and_counters_copied():
    norm = nn.BatchNorm2d(2)
    average = WeightAverage(norm, 0.5)
    norm.train()(torch.randn(8, 2, 4, 4) + 10)
    average.update(100)
    assert average.average.running_mean.tolist() == pytest.approx((norm.running_mean / 2).tolist())
    assert average.average.num_batches_tracked.item() == 1


def test_an_update_leaves_the_network_alone():
    linear = network(1.0)
    average = WeightAverage(linear, 0.5)
    nn.init.constant_(linear.weight, 4.0)
    average.update(100)
    assert linear.weight.item() == 4.0
    assert linear.weight.requires_grad
