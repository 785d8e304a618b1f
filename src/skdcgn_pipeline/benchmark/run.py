"""The benchmark: what the run's own networks and data paths cost, against what they replace.

Everything is timed in one process, in turns, and the median of five repeats counts. The numbers of the
published code are the only ones that are not measured here, and their rows say so.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shlex
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.training import fit_classifier
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool, compose_in_memory
from skdcgn_pipeline.images.batches import from_bytes
from skdcgn_pipeline.images.bias import apply_bias
from skdcgn_pipeline.images.grey import read_grey_images
from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.metrics.cost import in_turns, measure_rates, take_turns, wait_for_device
from skdcgn_pipeline.networks.interface import check_same_interface
from skdcgn_pipeline.parameters import Benchmark, ClassifierFit, Composition, Compute, Distill, Precision, Prepare
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.compute import autocast, choose_device
from skdcgn_pipeline.runtime.engine import num_side_by_side, run_side_by_side
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.runtime.progress import without_progress
from skdcgn_pipeline.runtime.seeding import numpy_generator, seeded, torch_generator
from skdcgn_pipeline.runtime.threads import computing_on
from skdcgn_pipeline.samples.drawing import ROWS_PER_BLOCK, SampleShards, draw_samples, take_decoded_images
from skdcgn_pipeline.students.distillation import DistillationStep, distil_student
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.vocabulary import MECHANISMS

COLUMNS = [
    "group",
    "what",
    "value",
    "unit",
    "batch_size",
    "threads",
    "precision",
    "ratio",
    "reference",
    "target",
    "met",
    "command",
    "machine",
    "versions",
]
PUBLISHED = "published code (published, not measured here)"
# Of the published code on two x86 cores.
PUBLISHED_COUNTERFACTUALS = 100_000
PUBLISHED_COMPOSITION_SECONDS, PUBLISHED_COMPOSITION_GB = 229.0, 4.75  # double_colored
PUBLISHED_BIASED_IMAGES = 60_000
PUBLISHED_BIAS_SECONDS = {"double_colored": 11.0, "wildlife": 122.0}

COMMON_BATCH_SIZE = 64  # of the usual way to train the classifier
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
WARM_UP_STEPS = 5
BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}  # as Linux calls them on x86 and ARM
MEMORY_EVERY_SECONDS = 0.002

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workload:
    """What is timed, at the settings of a run.

    Attributes:
        teacher: Any teacher.
        students: Students of it.
        teacher_samples: What students are distilled from.
        student_samples: What counterfactuals are composed from.
        settings: Sizes of the measurements.
        prepare: Where the digits come from.
        variant: The bias protocol.
        assets: The asset folder.
        composition: How counterfactuals are composed.
        fit: How a classifier is trained.
        num_classifiers: How many a run trains.
        distill: How the student of each mechanism is distilled.
        seed: Base seed.
        compute: Device and precision.
    """

    teacher: CounterfactualGenerator
    students: StudentCGN
    teacher_samples: SampleShards
    student_samples: SampleShards
    settings: Benchmark
    prepare: Prepare
    variant: str
    assets: str
    composition: Composition
    fit: ClassifierFit
    num_classifiers: int
    distill: Mapping[str, Distill]
    seed: int
    compute: Compute

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return choose_device(self.compute.device)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        group: Which part of the benchmark.
        what: What was measured; unique in its group and batch size.
        value: The median.
        unit: Of the value.
        batch_size: Where there is one.
        precision: Of the networks; empty where none runs.
        ratio: To the reference; above 1 is better than it.
        reference: What the ratio compares with.
        target: What is aimed at, in words; empty where nothing is.
        met: Whether the target is met.
    """

    group: str
    what: str
    value: float
    unit: str
    batch_size: int | None = None
    precision: str = ""
    ratio: float | None = None
    reference: str = ""
    target: str = ""
    met: bool | None = None


def _at_least(ratio: float, factor: float) -> dict[str, Any]:
    return {"target": f">= {factor:g}x", "met": ratio >= factor}


def _at_most(value: float, bound: float, unit: str) -> dict[str, Any]:
    return {"target": f"<= {bound:g} {unit}", "met": value <= bound}


# --- one function per group ----------------------------------------------------------------------


def measure_throughput(workload: Workload) -> list[Row]:
    """Measure images/s of all three mechanisms, teacher against students, by batch size."""
    names = {"teacher": "fp32", "students": "fp32", "students bf16": "bf16"}
    rates: dict[str, dict[int, float]] = {name: {} for name in names}
    students = workload.students.fused()
    for batch_size in workload.settings.batch_sizes:
        for name, rate in measure_rates(_renders(workload, students, batch_size), batch_size).items():
            rates[name][batch_size] = rate

    def row(what: str, name: str, batch_size: int, reference: str, reference_rate: float, **judged: Any) -> Row:
        rate = rates[name][batch_size]
        ratio = None if name == "teacher" else rate / reference_rate
        reference = "" if name == "teacher" else reference
        return Row("throughput", what, rate, "images/s", batch_size, names[name], ratio, reference, **judged)

    rows = [
        row(name, name, batch_size, "teacher, same batch size", rates["teacher"][batch_size])
        for name in names
        for batch_size in workload.settings.batch_sizes
    ]
    best = {name: max(of_name, key=lambda size: of_name[size]) for name, of_name in rates.items()}
    best_teacher = rates["teacher"][best["teacher"]]
    for name in names:
        judged = _at_least(rates[name][best[name]] / best_teacher, 10) if name == "students" else {}
        what, reference = f"{name}, best batch size", "teacher, best batch size"
        rows.append(row(what, name, best[name], reference, best_teacher, **judged))
    return rows


def _renders(workload: Workload, students: StudentCGN, batch_size: int) -> dict[str, Callable[[], Any]]:
    """Return what renders a batch with the teacher, the students, and the students in bfloat16."""
    teacher, compute, device, seed = workload.teacher, workload.compute, workload.device, workload.seed
    return {
        "teacher": render_batch(teacher, batch_size, "fp32", compute, device, seed),
        "students": render_batch(students, batch_size, "fp32", compute, device, seed),
        "students bf16": render_batch(students, batch_size, "bf16", compute, device, seed),
    }


def render_batch(
    one: CounterfactualGenerator,
    batch_size: int,
    precision: Precision,
    compute: Compute,
    device: torch.device,
    seed: int,
) -> Callable[[], Any]:
    """Return what renders one batch with a generator, which is moved to the device."""
    generator = torch_generator(seed, "benchmark-throughput", batch_size)
    noise = torch.randn(batch_size, one.noise_dim, generator=generator)
    labels = torch.arange(batch_size) % one.num_classes
    compute, where = compute.model_copy(update={"precision": precision}), _home(one, device)
    noise, labels = noise.to(where), labels.to(where)

    def call() -> Any:
        with autocast(compute, where):
            return one.render(noise, labels)

    return call


def _home(generator: CounterfactualGenerator, device: torch.device) -> torch.device:
    """Move a network to a device; what is no network takes its noise on the CPU. Returns where it is."""
    if not isinstance(generator, nn.Module):
        return torch.device("cpu")
    generator.to(device)
    return device


def measure_sampling(workload: Workload) -> list[Row]:
    """Measure what drawing samples into a store adds to rendering them."""
    per_class, compute = workload.settings.num_images_per_class, workload.compute.for_sampling()
    rows = []
    for role, generator in (("teacher", workload.teacher), ("students", workload.students)):
        device = _home(generator, workload.device)
        num_rows = per_class * generator.num_classes
        num_blocks = -(-num_rows // ROWS_PER_BLOCK)
        noise = torch.randn(ROWS_PER_BLOCK, generator.noise_dim, generator=torch_generator(0, "benchmark-sampling"))
        batch = noise.to(device), (torch.arange(ROWS_PER_BLOCK) % generator.num_classes).to(device)

        def render(generator: Any, num_blocks: int, batch: Any, device: torch.device) -> None:
            with torch.no_grad(), autocast(compute, device):
                for _ in range(num_blocks):
                    generator.render(*batch)

        def draw(generator: Any, role: str) -> None:
            with tempfile.TemporaryDirectory() as folder:
                draw_samples(Path(folder), generator, {"name": role}, per_class, 2000, workload.seed, workload.compute)

        seconds = take_turns(
            {
                "bare": partial(_seconds, partial(render, generator, num_blocks, batch, device)),
                "stored": partial(_seconds, partial(draw, generator, role)),
            }
        )
        rate = {"bare": num_blocks * ROWS_PER_BLOCK / seconds["bare"], "stored": num_rows / seconds["stored"]}
        common: dict[str, Any] = {"unit": "rows/s", "batch_size": ROWS_PER_BLOCK, "precision": compute.precision}
        bare = f"{role}, rendered and thrown away"
        rows.append(Row("sampling", bare, rate["bare"], **common))
        ratio = rate["stored"] / rate["bare"]
        rows.append(
            Row("sampling", f"{role}, drawn into a store", rate["stored"], **common, ratio=ratio, reference=bare)
        )
    return rows


def measure_composition(workload: Workload) -> list[Row]:
    """Measure seconds and memory of composing counterfactuals into one array of bytes."""
    pool = CounterfactualPool.of(workload.student_samples)
    num_images = workload.settings.num_counterfactuals
    peaks: list[int | None] = []

    def compose_all() -> None:
        with peak_memory() as memory:
            compose_in_memory(pool, workload.composition, num_images, workload.seed)
        peaks.append(memory.peak_bytes)

    seconds = take_turns({"compose": partial(_seconds, compose_all)})["compose"]
    is_published_size = num_images == PUBLISHED_COUNTERFACTUALS
    judged = _at_most(seconds, 4, "s") if is_published_size else {}
    ratio = PUBLISHED_COMPOSITION_SECONDS / PUBLISHED_COUNTERFACTUALS * num_images / seconds
    what = f"{num_images:,} counterfactuals composed"
    rows = [Row("composition", what, seconds, "s", ratio=ratio, reference=PUBLISHED, **judged)]
    known = [peak for peak in peaks if peak is not None]
    if known:
        # The first repeat takes memory from the system, later ones may find it: the largest counts.
        gigabytes = max(known) / 1e9
        judged = _at_most(gigabytes, 1, "GB") if is_published_size else {}
        saved = PUBLISHED_COMPOSITION_GB / gigabytes if is_published_size and gigabytes else None
        reference = PUBLISHED if saved is not None else ""
        what = "peak memory beyond the pools"
        rows.append(Row("composition", what, gigabytes, "GB", ratio=saved, reference=reference, **judged))
    what = f"{PUBLISHED_COUNTERFACTUALS:,} counterfactuals of double_colored, {PUBLISHED}"
    rows.append(Row("composition", what, PUBLISHED_COMPOSITION_SECONDS, "s"))
    rows.append(Row("composition", f"peak memory, {PUBLISHED}", PUBLISHED_COMPOSITION_GB, "GB"))
    return rows


def measure_bias(workload: Workload) -> list[Row]:
    """Measure seconds of putting grey digits, already in memory, through the run's bias protocol."""
    digits = read_grey_images(workload.prepare.source, workload.assets, workload.seed, workload.variant)["train"]
    num_images = workload.settings.num_biased_images
    repeated = digits[torch.arange(num_images) % len(digits)]

    def colour() -> None:
        generator = numpy_generator(workload.seed, "benchmark-bias")
        apply_bias(
            repeated,
            workload.variant,
            biased=True,
            generator=generator,
            binarise_threshold=workload.prepare.binarise_threshold,
            assets=workload.assets,
        )

    seconds = take_turns({"colour": partial(_seconds, colour)})["colour"]
    published = PUBLISHED_BIAS_SECONDS.get(workload.variant)
    is_published_size = num_images == PUBLISHED_BIASED_IMAGES
    compared: dict[str, Any] = _at_most(seconds, 5, "s") if is_published_size else {}
    if published:
        ratio = published / PUBLISHED_BIASED_IMAGES * num_images / seconds
        compared |= {"ratio": ratio, "reference": PUBLISHED}
    rows = [Row("bias", f"{num_images:,} images of {workload.variant} coloured", seconds, "s", **compared)]
    if published:
        what = f"{PUBLISHED_BIASED_IMAGES:,} images of {workload.variant}, {PUBLISHED}"
        rows.append(Row("bias", what, published, "s"))
    return rows


def measure_classifier(workload: Workload) -> list[Row]:
    """Measure training images/s of classifiers: as they are commonly trained, and as they are here."""
    pool = CounterfactualPool.of(workload.student_samples)
    wanted = workload.settings.num_classifier_images
    composed, labels = compose_in_memory(pool, workload.composition, max(wanted, 2 * COMMON_BATCH_SIZE), workload.seed)
    images, shapes = from_bytes(torch.from_numpy(composed)), torch.from_numpy(labels[:, 0].copy())
    several = num_side_by_side(workload.num_classifiers, workload.device)  # as a run trains them
    # The precision that this processor is good at has to reach the target.
    judged, factor = ("bf16", 4) if has_bf16_units(workload.device) else ("fp32", 2)
    common = "DataLoader of float images, Adadelta"
    train_commonly = partial(_train_commonly, images, shapes, pool.num_classes, workload)
    trainings: list[_Training] = []
    for number in sorted({1, several}):
        trainings.append(_Training(common, train_commonly, number, "fp32", COMMON_BATCH_SIZE))
        for precision in PRECISIONS:
            train, target = partial(_train_as_here, pool, workload, precision), None
            if (number, precision) == (several, judged):
                target = factor
            what = f"counterfactuals on the fly, {precision}"
            trainings.append(_Training(what, train, number, precision, workload.fit.batch_size, target))
    rates = take_turns({training.told: training.rate for training in trainings})
    rows = []
    for training in trainings:
        rate = rates[training.told]
        row = Row("classifier", training.told, rate, "images/s", training.batch_size, training.precision)
        if training.told != common:
            ratio = rate / rates[common]
            aimed_at = {} if training.target is None else _at_least(ratio, training.target)
            row = replace(row, ratio=ratio, reference=common, **aimed_at)
        rows.append(row)
    return rows


class _Clock:
    """Times trainings that run at a time, from when the first one has warmed up until the last one's end."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._seen: list[int] = []

    def start(self) -> None:
        """Say that a training has warmed up."""
        wait_for_device()
        self._starts.append(time.perf_counter())

    def stop(self, num_images: int) -> None:
        """Say that a training has ended, and how many images it has seen since its start."""
        wait_for_device()
        self._ends.append(time.perf_counter())
        self._seen.append(num_images)

    @property
    def rate(self) -> float:
        """Images of all trainings per second."""
        return sum(self._seen) / (max(self._ends) - min(self._starts))


@dataclass(frozen=True)
class _Training:
    """A way to train classifiers.

    Attributes:
        what: What it is called.
        train: Trains one classifier and tells a clock when.
        number: How many are trained: one with all threads, or several with a thread each.
        precision, batch_size: Of the training.
        target: How many times as fast as the common way it has to be; None where it is not judged.
    """

    what: str
    train: Callable[[_Clock], None]
    number: int
    precision: str
    batch_size: int
    target: int | None = None

    @property
    def told(self) -> str:
        """What the table calls it."""
        return self.what if self.number == 1 else f"{self.what}, {self.number} side by side"

    def rate(self) -> float:
        """Train and return the images/s of all classifiers together."""
        clock = _Clock()
        if self.number == 1:
            self.train(clock)
        else:
            run_side_by_side([partial(self.train, clock)] * self.number, torch.device("cpu"))
        return clock.rate


def _train_commonly(images: Tensor, labels: Tensor, num_classes: int, workload: Workload, clock: _Clock) -> None:
    """Train a classifier as it is commonly done."""
    device = workload.device
    with seeded(workload.seed, "benchmark-classifier"):
        classifier = DigitClassifier(num_classes).to(device).train()
    optimiser = torch.optim.Adadelta(classifier.parameters(), lr=1.0)
    shuffled = torch_generator(workload.seed, "benchmark-classifier")
    loader = DataLoader(TensorDataset(images, labels), COMMON_BATCH_SIZE, shuffle=True, generator=shuffled)
    warm_up = min(WARM_UP_STEPS, len(loader) - 1)
    seen = 0
    for step, (batch, targets) in enumerate(loader):
        if step == warm_up:
            clock.start()
            seen = 0
        logits = classifier.head(classifier.trunk(batch.to(device)))
        loss = F.cross_entropy(logits, targets.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen += len(batch)
    clock.stop(seen)


def _train_as_here(pool: CounterfactualPool, workload: Workload, precision: Precision, clock: _Clock) -> None:
    """Train a classifier as a run does, timed from one step's start to the last one's."""
    size = workload.fit.batch_size
    changes = {"num_images": max(workload.settings.num_classifier_images, 2 * size), "precision": precision}
    fit = workload.fit.model_copy(update=changes)
    last = fit.num_steps - 1
    first = min(WARM_UP_STEPS, last - 1)
    draw = pool.draw_batch(workload.composition, workload.seed, "benchmark-classifier")

    def timed_draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        if step == first:
            clock.start()
        elif step == last:
            clock.stop((last - first) * size)
        return draw(step, batch_size)

    fit_classifier(timed_draw, fit, workload.seed, workload.compute, pool.num_classes)


def measure_distillation(workload: Workload) -> list[Row]:
    """Measure steps/s of each mechanism's distillation, and the share that is not the networks' arithmetic."""
    rows = []
    for mechanism in MECHANISMS:
        pairs = workload.teacher_samples.read_pairs(mechanism)
        settings = _brief_distillation(workload, mechanism)
        turns = in_turns(
            {
                "loop": partial(_loop_rate, mechanism, pairs, settings, workload),
                "arithmetic": partial(_arithmetic_rate, mechanism, pairs, settings, workload),
            }
        )
        common: dict[str, Any] = {"batch_size": settings.batch_size, "precision": workload.compute.precision}
        rows.append(Row("distillation", mechanism, statistics.median(turns["loop"]), "steps/s", **common))
        # Of neighbouring turns: a share of a few percent is smaller than what a busy machine does to rates.
        ratio = statistics.median(loop / arithmetic for loop, arithmetic in zip(*turns.values(), strict=True))
        share = 100 * (1 - ratio)
        what, reference = f"{mechanism}, share beyond the networks", "the same steps on one fixed batch"
        judged = _at_most(share, 10, "%")
        rows.append(Row("distillation", what, share, "%", **common, ratio=ratio, reference=reference, **judged))
    if workload.device.type == "cuda":
        rows += _measure_streams(workload)
    return rows


def _brief_distillation(workload: Workload, mechanism: str) -> Distill:
    """Return the run's settings for the steps that are timed; the first part of them warms up."""
    own, num_steps = workload.distill[mechanism], workload.settings.num_distillation_steps
    changes = {"num_steps": num_steps, "log_every_steps": min(own.log_every_steps, num_steps // 2)}
    return own.model_copy(update=changes)


def _loop_rate(mechanism: str, pairs: tuple[Tensor, Tensor, Tensor], settings: Distill, workload: Workload) -> float:
    """Distil and return the steps/s between the first losses that are noted and the last."""
    noted: list[tuple[int, float]] = []

    def record(step: int, losses: dict[str, float]) -> None:
        wait_for_device()
        noted.append((step, time.perf_counter()))

    num_classes = workload.teacher_samples.num_classes
    distil_student(mechanism, pairs, num_classes, settings, workload.seed, workload.compute, record=record)
    (first, start), (last, end) = noted[0], noted[-1]
    return (last - first) / (end - start)


def _fixed_batch(
    mechanism: str, pairs: tuple[Tensor, Tensor, Tensor], settings: Distill, workload: Workload
) -> tuple[DistillationStep, tuple[Tensor, Tensor, Tensor]]:
    """Return the training of a mechanism and one batch on its device."""
    noise, labels, teacher_bytes = pairs
    sizes = noise.shape[1], workload.teacher_samples.num_classes, teacher_bytes.shape[-1]
    train = DistillationStep(mechanism, *sizes, settings, workload.seed, workload.compute)
    rows = torch.arange(settings.batch_size) % len(labels)
    batch = noise[rows], labels[rows], take_decoded_images(mechanism, teacher_bytes, rows)
    return train, tuple(part.to(train.device) for part in batch)  # type: ignore[return-value]


def _arithmetic_rate(
    mechanism: str, pairs: tuple[Tensor, Tensor, Tensor], settings: Distill, workload: Workload
) -> float:
    """Return the steps/s of the same steps on a batch that is already there."""
    train, batch = _fixed_batch(mechanism, pairs, settings, workload)
    first, last = settings.log_every_steps, settings.num_steps
    for step in range(first):
        train(step, *batch)
    wait_for_device()
    start = time.perf_counter()
    for step in range(first, last):
        train(step, *batch, noted=(step + 1) % settings.log_every_steps == 0 or step + 1 == last)
    wait_for_device()
    return (last - first) / (time.perf_counter() - start)


def _measure_streams(workload: Workload) -> list[Row]:
    """Measure the three distillations one after the other and side by side on streams of a GPU."""
    trainings = [
        _fixed_batch(mechanism, workload.teacher_samples.read_pairs(mechanism), settings, workload)
        for mechanism in MECHANISMS
        if (settings := _brief_distillation(workload, mechanism))
    ]
    streams = [torch.cuda.Stream() for _ in trainings]
    num_steps = workload.settings.num_distillation_steps

    def one_after_the_other() -> None:
        for train, batch in trainings:
            for step in range(num_steps):
                train(step, *batch)

    def side_by_side() -> None:
        for step in range(num_steps):
            for (train, batch), stream in zip(trainings, streams, strict=True):
                with torch.cuda.stream(stream):
                    train(step, *batch)

    side_by_side()
    measures = {"in turn": one_after_the_other, "streams": side_by_side}
    seconds = take_turns({name: partial(_seconds, call) for name, call in measures.items()})
    rate = {name: num_steps / value for name, value in seconds.items()}
    common: dict[str, Any] = {"unit": "steps/s of all three", "precision": workload.compute.precision}
    reference = "all three, one after the other"
    rows = [Row("distillation", reference, rate["in turn"], **common)]
    ratio = rate["streams"] / rate["in turn"]
    what = "all three, side by side on CUDA streams"
    return [*rows, Row("distillation", what, rate["streams"], **common, ratio=ratio, reference=reference)]


MEASURES: dict[str, Callable[[Workload], list[Row]]] = {
    "throughput": measure_throughput,
    "sampling": measure_sampling,
    "composition": measure_composition,
    "bias": measure_bias,
    "classifier": measure_classifier,
    "distillation": measure_distillation,
}


# --- all of it -----------------------------------------------------------------------------------


def run_benchmark(workload: Workload, arguments: Sequence[str] = ()) -> pd.DataFrame:
    """Measure every group, or the one that the settings name.

    Args:
        workload: What is timed.
        arguments: The command line that runs this, from which each row's command is made.

    Returns:
        A row per measurement, with `COLUMNS`: those of `Row`, `threads`, the `command` that measures
        the row's group again, `machine` and `versions`. Rows of the published code say so in `what`.

    Raises:
        SettingError: If the students are not of this teacher's interface.
        InterruptedRunError: If a stop was requested.
    """
    check_same_interface(workload.teacher, workload.students)
    measures = {group: partial(measure, workload) for group, measure in MEASURES.items()}
    return tabulate(measures, workload.settings, workload.device, arguments)


def tabulate(
    measures: Mapping[str, Callable[[], list[Row]]],
    settings: Benchmark,
    device: torch.device,
    arguments: Sequence[str] = (),
) -> pd.DataFrame:
    """Measure groups, or the one that the settings name; returns and raises as `run_benchmark`."""
    machine = describe_machine(device)
    rows = []
    with computing_on(settings.num_threads), without_progress():
        for group, measure in measures.items():
            if settings.only not in (None, group):
                continue
            own = {"threads": torch.get_num_threads(), "command": command_of(arguments, group), **machine}
            for row in measure():
                rows.append(asdict(row) | own | ({"threads": None, "command": ""} if PUBLISHED in row.what else {}))
                logger.info("%s: %s: %.4g %s", row.group, row.what, row.value, row.unit)
    types = {"batch_size": "Int64", "threads": "Int64", "ratio": "float64", "met": "boolean"}
    return pd.DataFrame(rows, columns=COLUMNS).astype(types)


def benchmark_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Return what was measured, as metrics `benchmark/<group>/<what>`, with `/ratio` where there is one."""
    metrics = {}
    for row in table[~table["what"].str.contains(PUBLISHED, regex=False)].to_dict("records"):
        name = re.sub(r"[^a-z0-9]+", "_", str(row["what"]).lower()).strip("_")
        if row["group"] == "throughput" and "best" not in name:
            name += f"/batch_{row['batch_size']}"
        metrics[f"benchmark/{row['group']}/{name}"] = float(row["value"])
        if pd.notna(row["ratio"]):
            metrics[f"benchmark/{row['group']}/{name}/ratio"] = float(row["ratio"])
    return metrics


def command_of(arguments: Sequence[str], group: str) -> str:
    """Return the command that measures one group again.

    Args:
        arguments: The command line of this run; another program's is not repeated.
        group: Which part of the benchmark.
    """
    words = ["run", "--pipelines", "benchmark"]
    # The command line tool, or `python -m kedro`.
    if arguments and "kedro" in (Path(arguments[0]).name, Path(arguments[0]).parent.name):
        words = list(arguments[1:])
    only = f"benchmark.only={group}"
    if any(only in word for word in words):
        return shlex.join(["kedro", *words])
    for number, word in enumerate(words):
        if word == "--params" and number + 1 < len(words):
            words[number + 1] += f",{only}"
            break
        if word.startswith("--params="):
            words[number] += f",{only}"
            break
    else:
        words += ["--params", only]
    return shlex.join(["kedro", *words])


def describe_machine(device: torch.device) -> dict[str, str]:
    """Return `machine` (processor, cores, and the GPU if it is one) and `versions`."""
    model = next(iter(_cpu_info("model name")), "") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{model}, {cores} cores"
    if device.type != "cpu":
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        machine = f"{name}; {machine}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return {"machine": machine, "versions": f"{versions}, skdcgn_pipeline {metadata.version('skdcgn_pipeline')}"}


def has_bf16_units(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 in hardware; False where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = {flag for line in (*_cpu_info("flags"), *_cpu_info("Features")) for flag in line.split()}
    return device.type == "cpu" and bool(flags & BF16_UNITS)


def _cpu_info(key: str) -> list[str]:
    """Return what Linux says about the processors under a key; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return []
    lines = (line.partition(":") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return [value.strip() for name, _, value in lines if name.strip() == key]


def _seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes, the GPU's part included."""
    if progress.stop_requested():
        raise InterruptedRunError("benchmark: stopped. Repeat the same command to measure from the start.")
    wait_for_device()
    start = time.perf_counter()
    call()
    wait_for_device()
    return time.perf_counter() - start


class MemoryWatch:
    """How much the memory of this process grew at most.

    Attributes:
        peak_bytes: Most resident bytes beyond those at the start; None where the system does not tell.
    """

    def __init__(self) -> None:
        self._start = _resident_bytes()
        self.peak_bytes = None if self._start is None else 0
        self._done = threading.Event()

    def look(self) -> None:
        """Look once."""
        now = _resident_bytes()
        if now is not None and self._start is not None and self.peak_bytes is not None:
            self.peak_bytes = max(self.peak_bytes, now - self._start)

    def watch(self) -> None:
        """Look every few milliseconds until told to stop."""
        while not self._done.wait(MEMORY_EVERY_SECONDS):
            self.look()

    def stop(self) -> None:
        """Look for the last time."""
        self._done.set()
        self.look()


@contextmanager
def peak_memory() -> Iterator[MemoryWatch]:
    """Watch the process's resident memory inside the block, from a thread."""
    watch = MemoryWatch()
    thread = threading.Thread(target=watch.watch, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()


def _resident_bytes() -> int | None:
    path = Path("/proc/self/statm")
    if not path.is_file():
        return None
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
