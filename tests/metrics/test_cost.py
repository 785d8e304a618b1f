"""Costs: counts that can be worked out by hand, and rates without a clock in the assertion."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skdcgn_pipeline.metrics import cost
from skdcgn_pipeline.metrics.cost import (
    COST_COLUMNS,
    count_macs,
    count_parameters,
    measure_costs,
    measure_rates,
    render_call,
)
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import TinyTeacher


def test_macs_of_a_convolution_are_counted():
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    images = torch.randn(2, 3, 16, 16)
    assert count_macs(lambda: convolution(images)) == 2 * 8 * 16 * 16 * 3 * 9


def test_macs_of_a_grouped_and_strided_convolution_are_counted():
    convolution = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=False)
    assert count_macs(lambda: convolution(torch.randn(1, 6, 8, 8))) == 6 * 4 * 4 * 9


def test_macs_of_a_linear_layer_are_counted():
    linear = nn.Linear(5, 7)
    assert count_macs(lambda: linear(torch.randn(4, 5))) == 4 * 5 * 7


def test_what_cannot_be_counted_is_none():
    assert count_macs(lambda: None) is None
    assert count_parameters(object()) is None


def test_parameters_are_counted():
    assert count_parameters(nn.Linear(5, 7)) == 5 * 7 + 7


def test_macs_grow_with_the_batch():
    cgn = MnistCGN(width=2).eval()
    noise, labels = torch.randn(4, 32), torch.arange(4)
    one, four = (count_macs(render_call(cgn, "shape", noise[:n], labels[:n])) for n in (1, 4))
    assert four == 4 * one


def test_a_generator_renders_one_mechanism_where_it_can(tiny_teacher):
    noise, labels = torch.randn(2, 32), torch.arange(2)
    cgn = MnistCGN(width=2).eval()
    assert torch.equal(render_call(cgn, "texture", noise, labels)(), cgn.render(noise, labels).foreground)
    assert render_call(tiny_teacher, "texture", noise[:, :4], labels) is None
    assert len(render_call(tiny_teacher, None, noise[:, :4], labels)()) == 2


def test_rates_are_the_median_of_turns_in_one_process(monkeypatch):
    order, now = [], [0.0]

    def render(name: str, seconds: float):
        def call() -> None:
            order.append(name)
            now[0] += 10 * seconds if order.count(name) == 2 else seconds  # the first turn is disturbed

        return call

    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    rates = measure_rates({"teacher": render("teacher", 0.4), "student": render("student", 0.1)}, images_per_call=10)
    assert rates["teacher"] == pytest.approx(10 / 0.4)
    assert rates["student"] == pytest.approx(10 / 0.1, rel=0.35)  # the last call may pass the turn's end
    assert order[:2] == ["teacher", "student"]
    turns = [name for number, name in enumerate(order[2:]) if number == 0 or name != order[1 + number]]
    assert turns == ["teacher", "student"] * cost.NUM_REPEATS


def test_costs_of_a_teacher_that_cannot_tell_are_empty(monkeypatch):
    monkeypatch.setattr(cost, "SECONDS_PER_REPEAT", 0.001)
    small = {"architecture": "compact", "width": [4, 6, 4], "embedding_dim": 4}
    students = StudentCGN(4, 3, 8, dict.fromkeys(MECHANISMS, small)).eval()
    table = measure_costs(TinyTeacher(), students, 4).set_index("mechanism")
    assert list(table.columns) == COST_COLUMNS
    assert table["teacher_parameters"].isna().all()
    assert table["teacher_macs"].isna().all()
    assert table["teacher_images_per_s"].notna().tolist() == [False, False, False, True]
    assert table["student_images_per_s"].min() > 0
    parts = table.loc[list(MECHANISMS)]
    assert parts["student_parameters"].sum() == table.loc["all", "student_parameters"]
    assert parts["student_macs"].sum() == table.loc["all", "student_macs"]
