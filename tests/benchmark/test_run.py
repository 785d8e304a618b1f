"""The benchmark: what its rows say and how they are judged; never how fast anything is."""

from __future__ import annotations

import logging
import mmap
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
import torch

from configuration import merge, read_folder
from skdcgn_pipeline.benchmark import frame
from skdcgn_pipeline.benchmark import networks as network_benchmark
from skdcgn_pipeline.benchmark import run as benchmark
from skdcgn_pipeline.benchmark.frame import (
    COLUMNS,
    PUBLISHED,
    benchmark_metrics,
    describe_machine,
    has_bf16_units,
    peak_growth,
)
from skdcgn_pipeline.benchmark.networks import tabulate
from skdcgn_pipeline.benchmark.run import MEASURES, Workload
from skdcgn_pipeline.metrics import cost
from skdcgn_pipeline.parameters import Benchmark, Composition, Compute, Distill, Parameters, Student, check_parameters
from skdcgn_pipeline.pipelines.benchmark import nodes
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import TinyTeacher, draw_samples

CPU = Compute(device="cpu")
SETTINGS = Benchmark(
    num_threads=1,
    batch_sizes=(2, 4),
    num_images_per_class=3,
    num_counterfactuals=30,
    num_biased_images=20,
    num_classifier_images=128,
    num_distillation_steps=4,
)


class LargerTeacher(TinyTeacher):
    """The tiny teacher at the size that the digit classifier takes."""

    image_size = 32


@pytest.fixture(autouse=True)
def brief_timing(monkeypatch):
    monkeypatch.setattr(cost, "NUM_REPEATS", 2)
    monkeypatch.setattr(cost, "SECONDS_PER_REPEAT", 0.001)


@pytest.fixture(scope="module")
def parameters(project) -> Parameters:
    raw = read_folder(project / "conf" / "base")
    merge(raw, read_folder(project / "conf" / "test"))
    merge(
        raw,
        {
            "classify": {
                "num_seeds": 1,
                "trained_on": ["teacher", "students"],
                "fit": {"num_images": 8, "batch_size": 4},
            }
        },
    )
    return check_parameters(raw)


@pytest.fixture(scope="module")
def workload(tmp_path_factory, parameters) -> Workload:
    torch.set_num_threads(1)
    teacher, student = LargerTeacher(), Student(width=(2, 3, 2), embedding_dim=2)
    samples = draw_samples(tmp_path_factory.mktemp("samples"), teacher, {"name": "tiny"}, 8, 24, 0, CPU)
    students = StudentCGN(4, 3, 32, {mechanism: student.arguments() for mechanism in MECHANISMS}).eval()
    distill = Distill(student=student, num_steps=100, batch_size=4, discriminator_width=2)
    return Workload(
        teacher=teacher,
        students=students.requires_grad_(False),
        teacher_samples=samples,
        student_samples=samples,
        settings=SETTINGS,
        composition=Composition(),
        parameters=parameters,
        distill=dict.fromkeys(MECHANISMS, distill),
        seed=0,
        compute=CPU,
    )


@pytest.fixture(scope="module")
def table(workload, one_program) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "NUM_REPEATS", 1)
        patch.setattr(cost, "SECONDS_PER_REPEAT", 0.001)
        return tabulate(MEASURES, workload, lambda group: f"measure {group}")


def one_group(workload: Workload, group: str, **changes: Any) -> pd.DataFrame:
    settings = workload.settings.model_copy(update={"only": group, **changes})
    return tabulate(MEASURES, replace(workload, settings=settings))


def row_of(table: pd.DataFrame, what: str) -> dict[str, Any]:
    (row,) = table[table["what"].str.startswith(what)].to_dict("records")
    return row


def fixed(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Let every call that is timed take a known time."""
    monkeypatch.setattr(benchmark, "rates_of", lambda calls: {name: 1 / seconds[name] for name in calls})


# --- what is in the table ------------------------------------------------------------------------


def test_every_group_is_measured_and_every_row_is_complete(table):
    assert list(table.columns) == COLUMNS
    assert list(table["group"].unique()) == list(MEASURES)
    assert not table.duplicated(["group", "what", "batch_size"]).any()
    assert np.isfinite(table["value"]).all()
    assert (table["unit"] != "").all()
    assert (table["value"] >= 0).all()
    assert (table["threads"] == SETTINGS.num_threads).all()
    assert table["machine"].nunique() == table["versions"].nunique() == 1


def test_teacher_and_students_are_measured_at_every_batch_size(table):
    rates = table[table["group"] == "throughput"]
    for what in ("teacher", "students", "students by torch", "students bf16", "students by ONNX Runtime"):
        assert rates[rates["what"] == what]["batch_size"].tolist() == [2, 4]
    assert rates["precision"].tolist().count("bf16") == 3


def test_a_ratio_names_what_it_compares_with(table):
    assert (table["ratio"].notna() == (table["reference"] != "")).all()
    assert (table["ratio"].dropna() > 0).all()


def test_what_is_published_says_so(table):
    published = table[table["reference"].str.startswith(PUBLISHED)]
    assert set(published["group"]) == {"composition", "bias"}
    assert published["reference"].str.contains("229 s, 4.75 GB for 100,000|11 s for 60,000").all()


def test_each_measured_row_names_the_command_of_its_group(table):
    for row in table.to_dict("records"):
        assert row["command"] == f"measure {row['group']}"


def test_one_group_can_be_measured_alone(workload):
    assert set(one_group(workload, "bias")["group"]) == {"bias"}


def test_every_mechanism_is_distilled(table):
    rows = table[table["group"] == "distillation"].set_index("what")
    for mechanism in MECHANISMS:
        plain, own = rows.loc[f"{mechanism}, plain fp32 loop of the same networks"], rows.loc[mechanism]
        assert own["ratio"] == pytest.approx(own["value"] / plain["value"])
        assert (own["unit"], own["target"]) == ("steps/s", "")
    shares = rows[rows["unit"] == "%"]
    assert shares["value"].between(0, 100).all()
    assert (shares["target"] == "<= 5 %").all()


# --- how it is judged ----------------------------------------------------------------------------


@pytest.mark.usefixtures("one_program")
@pytest.mark.parametrize(("rate", "met"), [(2000.0, True), (1999.0, False)])
def test_the_best_students_are_compared_with_the_best_teacher(workload, monkeypatch, rate, met):
    def rates(renders: Any, batch_size: int) -> dict[str, float]:
        return {"teacher": 100.0 / batch_size, "students": rate * batch_size / 8, "students bf16": 60.0}

    monkeypatch.setattr(network_benchmark, "measure_rates", rates)
    best = row_of(one_group(workload, "throughput"), "students, best batch size")
    assert (best["batch_size"], best["ratio"]) == (4, pytest.approx(rate * 4 / 8 / 50))
    assert (best["target"], bool(best["met"])) == (">= 20x", met)


@pytest.mark.parametrize(("seconds", "met"), [(4.0, True), (4.1, False)])
def test_composition_is_judged_at_the_published_size_alone(workload, monkeypatch, seconds, met):
    fixed(monkeypatch, compose=seconds)
    monkeypatch.setattr(benchmark, "PUBLISHED_COUNTERFACTUALS", 30)
    row = row_of(one_group(workload, "composition"), "30 counterfactuals composed")
    assert (row["target"], bool(row["met"])) == ("<= 4 s", met)
    assert row["ratio"] == pytest.approx(229 / seconds)
    other = row_of(one_group(workload, "composition", num_counterfactuals=15), "15 counterfactuals composed")
    assert other["target"] == ""
    assert pd.isna(other["met"])
    assert other["ratio"] == pytest.approx(229 / 2 / seconds)


def test_the_memory_of_composing_is_told_where_the_system_tells_it(workload, monkeypatch):
    monkeypatch.setattr(frame, "PROCESS", Path("/nowhere"))
    whats = one_group(workload, "composition")["what"]
    assert not whats.str.startswith("peak memory beyond").any()


@pytest.mark.parametrize(("variant", "published"), [("double_colored", 11.0), ("colored", None)])
def test_colouring_is_compared_with_what_is_published_of_the_variant(workload, monkeypatch, variant, published):
    fixed(monkeypatch, colour=2.0)
    monkeypatch.setattr(benchmark, "PUBLISHED_BIASED_IMAGES", 20)
    table = one_group(replace(workload, parameters=workload.parameters.model_copy(update={"variant": variant})), "bias")
    row = row_of(table, f"20 images of {variant} coloured")
    assert (row["target"], bool(row["met"])) == ("<= 5 s", True)
    assert len(table) == 1
    if published:
        assert row["ratio"] == pytest.approx(published / 2)


@pytest.mark.parametrize(("has_units", "precision", "target"), [(True, "bf16", ">= 4x"), (False, "fp32", ">= 2x")])
@pytest.mark.parametrize(("threads", "told"), [(1, ""), (2, ", 2 side by side"), (5, ", 2 side by side")])
def test_classifiers_are_judged_as_a_run_trains_them(
    workload, monkeypatch, has_units, precision, target, threads, told
):
    common, own = "DataLoader of float images, Adadelta", "counterfactuals on the fly"
    known = {common: 100.0, f"{own}, fp32": 190.0, f"{own}, bf16": 410.0}
    known |= {f"{name}, 2 side by side": rate for name, rate in known.items()}
    images_at_a_time = {name: 128 * (2 if "side by side" in name else 1) for name in known}
    monkeypatch.setattr(
        benchmark, "rates_of", lambda calls: {name: known[name] / images_at_a_time[name] for name in calls}
    )
    monkeypatch.setattr(benchmark, "has_bf16_units", lambda device: has_units)
    table = one_group(workload, "classifier", num_threads=threads)
    judged = f"{own}, {precision}{told}"
    assert table[table["target"] != ""]["what"].tolist() == [judged]
    (row,) = table[table["what"] == judged].to_dict("records")
    assert (row["target"], bool(row["met"]), row["ratio"]) == (target, has_units, pytest.approx(known[judged] / 100))
    assert table["ratio"].isna().tolist() == [name == common for name in table["what"]]


# --- surroundings --------------------------------------------------------------------------------


def test_threads_are_as_before_afterwards(workload, monkeypatch):
    seen = []
    monkeypatch.setitem(benchmark.MEASURES, "bias", lambda workload: seen.append(torch.get_num_threads()) or [])
    one_group(workload, "bias", num_threads=2)
    assert (seen, torch.get_num_threads()) == ([2], 1)


def test_progress_is_told_again_after_a_measure_that_fails(workload, monkeypatch):
    def fail(workload: Workload) -> list:
        assert not progress.logger.isEnabledFor(logging.INFO)
        raise OSError("no disk")

    monkeypatch.setitem(benchmark.MEASURES, "bias", fail)
    before = progress.logger.level
    with pytest.raises(OSError, match="no disk"):
        one_group(workload, "bias")
    assert progress.logger.level == before
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("group", ["sampling", "composition", "bias", "classifier", "distillation"])
def test_a_request_to_stop_is_heard(workload, group):
    progress.request_stop()
    with pytest.raises(InterruptedRunError):
        one_group(workload, group)


def test_nothing_is_left_of_the_temporary_stores(workload, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark.tempfile, "tempdir", str(tmp_path))
    one_group(workload, "sampling")
    assert list(tmp_path.iterdir()) == []


def test_students_of_another_teacher_are_refused(workload):
    other = StudentCGN(5, 3, 32, workload.students.architectures)
    with pytest.raises(SettingError, match="students: expected the teacher's"):
        tabulate(MEASURES, replace(workload, students=other))


def test_a_missing_device_is_refused(workload):
    with pytest.raises(SettingError, match=r"compute\.device"):
        tabulate(MEASURES, replace(workload, compute=Compute.model_construct(device="gpu")))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the memory of a process is told by Linux only")
def test_the_peak_of_the_memory_is_seen_even_if_it_is_given_back():
    def fill(num_bytes: int) -> None:
        # Straight from the system: an array may get memory that earlier tests have left to the process.
        with mmap.mmap(-1, num_bytes) as filled:
            filled.write(b"1" * num_bytes)

    large, little = peak_growth(lambda: fill(50_000_000)), peak_growth(lambda: fill(1000))
    assert large is not None
    assert little is not None
    assert large > 40_000_000 > little


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"flags": ["fpu avx512f"]}, False), ({"flags": ["fpu avx512_bf16"]}, True), ({"Features": ["fp bf16"]}, True)],
)
def test_units_for_bfloat16_are_found_by_their_flag(monkeypatch, flags, expected):
    monkeypatch.setattr(frame, "_cpu_info", lambda key: flags.get(key, []))
    assert has_bf16_units(torch.device("cpu")) is expected


def test_the_machine_is_described_by_processor_cores_and_versions():
    described = describe_machine(torch.device("cpu"))
    assert re.fullmatch(r".+, \d+ cores", described["machine"])
    assert torch.__version__ in described["versions"]
    assert os.fspath(Path.home()) not in str(described)


# --- commands and metrics ------------------------------------------------------------------------


def test_the_command_measures_the_same_group_again(monkeypatch):
    commands = []
    monkeypatch.setattr(nodes, "check_parameters", MagicMock())
    monkeypatch.setattr(nodes.networks, "make_networks", MagicMock())
    monkeypatch.setattr(nodes.networks, "tabulate", lambda *arguments: commands.append(arguments[2]("bias")))
    for this_run in ({}, {"env": "mnist", "params": {"seed": 1, "benchmark": {"num_threads": 1}}}):
        nodes.measure_random_networks(MagicMock(), this_run, {})
    assert commands == [
        "kedro run --pipelines benchmark --params benchmark.only=bias",
        "kedro run --env mnist --pipelines benchmark --params seed=1,benchmark.num_threads=1,benchmark.only=bias",
    ]


def test_metrics_are_named_by_group_and_what_was_measured(table):
    metrics = benchmark_metrics(table)
    assert all(re.fullmatch(r"benchmark/[a-z]+/[a-z0-9_]+(/batch_\d+)?(/ratio)?", name) for name in metrics)
    assert metrics["benchmark/throughput/students/batch_4"] > 0
    assert "benchmark/throughput/students_best_batch_size/ratio" in metrics
    assert "benchmark/classifier/counterfactuals_on_the_fly_bf16/ratio" in metrics
    assert "benchmark/distillation/shape" in metrics
    assert len(metrics) == len(table) + table["ratio"].notna().sum()
