"""Random networks are measured: which rows there are and how they are judged; never how fast anything is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from libraries import needs
from skdcgn_pipeline.benchmark import networks as network_benchmark
from skdcgn_pipeline.benchmark.frame import COLUMNS
from skdcgn_pipeline.benchmark.networks import MEASURES, Networks, make_networks, measure_throughput, tabulate
from skdcgn_pipeline.metrics import cost
from skdcgn_pipeline.parameters import Benchmark, Compute, Distill, LossWeights, Student
from skdcgn_pipeline.teachers.imagenet_cgn import make_random
from skdcgn_pipeline.vocabulary import MECHANISMS

pytestmark = needs("pytorch_pretrained_biggan", extra="imagenet")

SETTINGS = Benchmark(
    networks="random", random_size="miniature", num_threads=1, batch_sizes=(2, 3), num_distillation_steps=2
)
DISTILL = Distill(
    student=Student(architecture="tinygan", width=1, embedding_dim=2),
    num_steps=10,
    batch_size=2,
    discriminator_width=2,
    adversarial_every_judgements=1,
    weights=LossWeights(pixel=1.0, feature=1.0, kl=1.0, adversarial=1.0),
    fetch_threads=1,
)


@pytest.fixture(autouse=True)
def brief_timing(monkeypatch):
    monkeypatch.setattr(cost, "NUM_REPEATS", 1)
    monkeypatch.setattr(cost, "SECONDS_PER_REPEAT", 0.001)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return make_networks(SETTINGS, dict.fromkeys(MECHANISMS, DISTILL), 0, Compute(device="cpu"))


def of(table: pd.DataFrame, group: str) -> pd.DataFrame:
    return table[table["group"] == group].set_index("what")


def test_every_group_is_measured(networks):
    table = tabulate(MEASURES, networks, lambda group: f"measure {group}")
    assert list(table.columns) == COLUMNS
    assert list(table["group"].unique()) == list(MEASURES)
    assert not table.duplicated(["group", "what", "batch_size"]).any()
    assert np.isfinite(table["value"]).all()
    assert set(of(table, "throughput").index) == {
        *(f"{role} {precision}" for role in ("teacher", "students") for precision in ("fp32", "bf16")),
        "teacher, best batch size",
        "students, best batch size",
    }
    steps = of(table, "distillation")
    plain = steps.loc["texture, plain fp32 loop of the same networks", "value"]
    assert steps.loc["texture", "ratio"] == pytest.approx(steps.loc["texture", "value"] / plain)
    assert steps.loc["texture", "target"] == ">= 3x"
    waiting = steps.loc["texture, share of the time spent waiting for data"]
    assert 0 <= waiting["value"] <= 100
    assert waiting["target"] == "<= 5 %"
    assert table["command"].iloc[-1] == "measure distillation"


def test_the_best_students_are_compared_with_the_best_teacher(networks, monkeypatch):
    rates = iter([1.0, 2.0, 10.0, 30.0, 3.0, 2.5, 5.0, 29.0])  # by size: teacher and students, fp32 and bf16
    monkeypatch.setattr(network_benchmark, "measure_rates", lambda calls, size: {name: next(rates) for name in calls})
    rows = {row.what: row for row in measure_throughput(networks)}
    assert (rows["teacher, best batch size"].batch_size, rows["teacher, best batch size"].precision) == (3, "fp32")
    best = rows["students, best batch size"]
    assert (best.batch_size, best.precision, best.ratio, best.met) == (2, "bf16", pytest.approx(10), True)


def test_a_batch_that_memory_cannot_hold_is_left_out(networks, monkeypatch, caplog):
    original = network_benchmark.Networks.render_batch

    def render_batch(networks, generator, batch_size, precision):
        if generator is networks.teacher and batch_size == 3:
            return raise_out_of_memory
        return original(networks, generator, batch_size, precision)

    def raise_out_of_memory():
        raise torch.OutOfMemoryError

    monkeypatch.setattr(network_benchmark.Networks, "render_batch", render_batch)
    rows = measure_throughput(networks)
    assert {row.batch_size for row in rows if row.what.startswith("teacher")} == {2}
    assert {row.batch_size for row in rows if row.what.startswith("students f")} == {2, 3}
    assert "teacher fp32: no memory for a batch of 3" in caplog.text


def test_random_networks_give_finite_images_that_differ():
    cgn = make_random("miniature")
    images = cgn.render(torch.randn(3, cgn.noise_dim), torch.tensor([0, 1, 2]))
    for mechanism in MECHANISMS:
        own = images.of(mechanism)
        assert torch.isfinite(own).all()
        assert not torch.equal(own[0], own[1])


@pytest.mark.parametrize("only", ["sampling", "bias"])
def test_a_group_that_is_not_measured_is_refused(only):
    with pytest.raises(ValidationError, match=f"'only: {only}' is not measured with 'networks: random'"):
        Benchmark(networks="random", only=only)
