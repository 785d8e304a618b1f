"""Random networks are measured: which rows there are and how they are judged; never how fast anything is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from skdcgn_pipeline.benchmark import frame
from skdcgn_pipeline.benchmark import networks as network_benchmark
from skdcgn_pipeline.benchmark.frame import COLUMNS, Networks, tabulate
from skdcgn_pipeline.benchmark.networks import (
    MEASURES,
    make_networks,
    measure_rendering,
)
from skdcgn_pipeline.metrics import cost
from skdcgn_pipeline.parameters import Benchmark, Compute, Distill, LossWeights, Student
from skdcgn_pipeline.teachers.imagenet_cgn import make_random
from skdcgn_pipeline.vocabulary import MECHANISMS

pytest.importorskip("pytorch_pretrained_biggan", reason="the ImageNet teacher needs the extra 'imagenet'")

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
    monkeypatch.setitem(network_benchmark.MATRIX_SIZE, "cpu", 16)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return make_networks(SETTINGS, dict.fromkeys(MECHANISMS, DISTILL), 0, Compute(device="cpu"))


def of(table: pd.DataFrame, group: str) -> pd.DataFrame:
    return table[table["group"] == group].set_index("what")


def test_every_group_is_measured(networks):
    table = tabulate(MEASURES, networks, ["kedro", "run", "--pipelines=benchmark", "--env", "imagenet"])
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
    plain = steps.loc["plain fp32 eager loop of the same networks", "value"]
    assert steps.loc["step", "ratio"] == pytest.approx(steps.loc["step", "value"] / plain)
    assert steps.loc["step", "target"] == ">= 3x"
    waiting = of(table, "data").loc["share of a training spent waiting for data"]
    assert 0 <= waiting["value"] <= 100
    assert waiting["target"] == "<= 5 %"
    assert table["command"].iloc[-1].endswith("--params benchmark.only=data")


def test_the_best_students_are_compared_with_the_best_teacher(networks, monkeypatch):
    rates = iter([1.0, 2.0, 10.0, 30.0, 3.0, 2.5, 5.0, 29.0])  # by size: teacher and students, fp32 and bf16
    monkeypatch.setattr(frame, "measure_rates", lambda renders, size: {name: next(rates) for name in renders})
    rows = {row.what: row for row in measure_rendering(networks)}
    assert (rows["teacher, best batch size"].batch_size, rows["teacher, best batch size"].precision) == (3, "fp32")
    best = rows["students, best batch size"]
    assert (best.batch_size, best.precision, best.ratio, best.met) == (2, "bf16", pytest.approx(10), True)


def test_a_batch_that_memory_cannot_hold_is_left_out(networks, monkeypatch, caplog):
    original = frame.render_batch

    def render_batch(generator, batch_size, *arguments):
        if generator is networks.teacher and batch_size == 3:
            return raise_out_of_memory
        return original(generator, batch_size, *arguments)

    def raise_out_of_memory():
        raise torch.OutOfMemoryError

    monkeypatch.setattr(frame, "render_batch", render_batch)
    rows = measure_rendering(networks)
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


@pytest.mark.parametrize(("networks", "only"), [("run", "data"), ("random", "sampling"), ("random", "bias")])
def test_a_group_that_is_not_measured_is_refused(networks, only):
    with pytest.raises(ValidationError, match=f"'only: {only}' is not measured with 'networks: {networks}'"):
        Benchmark(networks=networks, only=only)
