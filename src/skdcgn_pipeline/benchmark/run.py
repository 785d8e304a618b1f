"""What the run's own networks and data paths cost, against what they replace."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.benchmark.frame import (
    PUBLISHED,
    Networks,
    Rendering,
    Row,
    has_bf16_units,
    measure_renderings,
    peak_growth,
    rate_of,
    render_batch,
    seconds_of,
)
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.training import fit_classifier
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool, compose_in_memory
from skdcgn_pipeline.images.bias import apply_bias
from skdcgn_pipeline.images.grey import read_grey_images
from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.metrics.cost import in_turns, take_turns, wait_for_device
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import ClassifierFit, Composition, Distill, Images, Precision, Prepare
from skdcgn_pipeline.runtime.engine import num_side_by_side, run_side_by_side
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.runtime.seeding import numpy_generator, seeded, torch_generator
from skdcgn_pipeline.samples.drawing import SampleShards, SamplesRecipe
from skdcgn_pipeline.samples.pixels import from_bytes, take_decoded_images
from skdcgn_pipeline.samples.records import ROWS_PER_BLOCK
from skdcgn_pipeline.students.distillation import Distillation
from skdcgn_pipeline.students.recipes import StudentRecipe
from skdcgn_pipeline.vocabulary import MECHANISMS

# Of the published code on two x86 cores.
PUBLISHED_COUNTERFACTUALS = 100_000
PUBLISHED_COMPOSITION_SECONDS, PUBLISHED_COMPOSITION_GB = 229.0, 4.75  # double_colored
PUBLISHED_BIASED_IMAGES = 60_000
PUBLISHED_BIAS_SECONDS = {"double_colored": 11.0, "wildlife": 122.0}

COMMON_BATCH_SIZE = 64  # of the usual way to train the classifier
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
WARM_UP_STEPS = 5


@dataclass(frozen=True)
class Workload(Networks):
    """The networks of a run and its data paths.

    Attributes:
        teacher_samples: What students are distilled from.
        student_samples: What counterfactuals are composed from.
        images: Where the shapes come from.
        prepare: How they are coloured.
        variant: The bias protocol.
        assets: The asset folder.
        composition: How counterfactuals are composed.
        fit: How a classifier is trained.
        num_classifiers: How many a run trains.
    """

    teacher_samples: SampleShards
    student_samples: SampleShards
    images: Images
    prepare: Prepare
    variant: str
    assets: str
    composition: Composition
    fit: ClassifierFit
    num_classifiers: int


def measure_throughput(workload: Workload) -> list[Row]:
    """Measure images/s of all three mechanisms, teacher against students, by batch size."""
    students = workload.students.fused()
    renderings = [
        Rendering("teacher", "teacher", workload.teacher, "fp32"),
        Rendering("students", "students", students, "fp32"),
        Rendering("students bf16", "students bf16", students, "bf16"),
    ]
    return measure_renderings(renderings, workload)


def measure_sampling(workload: Workload) -> list[Row]:
    """Measure what drawing samples into a store adds to rendering them."""
    generators: dict[str, CounterfactualGenerator] = {"teacher": workload.teacher, "students": workload.students}
    return [row for role, generator in generators.items() for row in _sampling_rows(role, generator, workload)]


def _sampling_rows(role: str, generator: CounterfactualGenerator, workload: Workload) -> list[Row]:
    per_class, precision = workload.settings.num_images_per_class, workload.compute.sampling_precision
    num_rows = per_class * generator.num_classes
    blocks = range(-(-num_rows // ROWS_PER_BLOCK))
    call = render_batch(generator, ROWS_PER_BLOCK, precision, workload.compute, workload.device, workload.seed)

    def render() -> None:
        with torch.no_grad():
            for _ in blocks:
                call()

    def draw() -> None:
        with tempfile.TemporaryDirectory() as folder:
            recipe = SamplesRecipe(generator, {"name": role}, per_class, 2000, workload.seed, workload.compute)
            build_in(Path(folder), recipe)

    seconds = seconds_of({"bare": render, "stored": draw})
    common: dict[str, Any] = {"unit": "rows/s", "batch_size": ROWS_PER_BLOCK, "precision": precision}
    rate = len(blocks) * ROWS_PER_BLOCK / seconds["bare"]
    bare = Row("sampling", f"{role}, rendered and thrown away", rate, **common)
    stored = Row("sampling", f"{role}, drawn into a store", num_rows / seconds["stored"], **common)
    return [bare, stored.compared(stored.value / bare.value, bare.what)]


def measure_composition(workload: Workload) -> list[Row]:
    """Measure seconds and memory of composing counterfactuals into one array of bytes."""
    pool = CounterfactualPool.of(workload.student_samples)
    num_images = workload.settings.num_counterfactuals
    peaks: list[int | None] = []

    def compose_all() -> None:
        peaks.append(peak_growth(lambda: compose_in_memory(pool, workload.composition, num_images, workload.seed)))

    seconds = seconds_of({"compose": compose_all})["compose"]
    of_published_size = num_images == PUBLISHED_COUNTERFACTUALS
    time_row = Row("composition", f"{num_images:,} counterfactuals composed", seconds, "s")
    ratio = PUBLISHED_COMPOSITION_SECONDS / PUBLISHED_COUNTERFACTUALS * num_images / seconds
    rows = [(time_row.at_most(4) if of_published_size else time_row).compared(ratio, PUBLISHED)]
    known = [peak for peak in peaks if peak is not None]
    if known:
        # The first repeat takes memory from the system, later ones may find it: the largest counts.
        memory = Row("composition", "peak memory beyond the pools", max(known) / 1e9, "GB")
        if of_published_size and memory.value:
            memory = memory.at_most(1).compared(PUBLISHED_COMPOSITION_GB / memory.value, PUBLISHED)
        rows.append(memory)
    what = f"{PUBLISHED_COUNTERFACTUALS:,} counterfactuals of double_colored, {PUBLISHED}"
    rows.append(Row("composition", what, PUBLISHED_COMPOSITION_SECONDS, "s"))
    return [*rows, Row("composition", f"peak memory, {PUBLISHED}", PUBLISHED_COMPOSITION_GB, "GB")]


def measure_bias(workload: Workload) -> list[Row]:
    """Measure seconds of putting grey digits, already in memory, through the run's bias protocol."""
    digits = read_grey_images(workload.images.source, workload.assets, workload.seed, workload.variant)["train"]
    num_images = workload.settings.num_biased_images
    repeated = digits[torch.arange(num_images) % len(digits)]

    def colour() -> None:
        apply_bias(
            repeated,
            workload.variant,
            biased=True,
            generator=numpy_generator(workload.seed, "benchmark-bias"),
            binarise_threshold=workload.prepare.binarise_threshold,
            assets=workload.assets,
        )

    seconds = seconds_of({"colour": colour})["colour"]
    row = Row("bias", f"{num_images:,} images of {workload.variant} coloured", seconds, "s")
    if num_images == PUBLISHED_BIASED_IMAGES:
        row = row.at_most(5)
    published = PUBLISHED_BIAS_SECONDS.get(workload.variant)
    if published is None:
        return [row]
    what = f"{PUBLISHED_BIASED_IMAGES:,} images of {workload.variant}, {PUBLISHED}"
    ratio = published / PUBLISHED_BIASED_IMAGES * num_images / seconds
    return [row.compared(ratio, PUBLISHED), Row("bias", what, published, "s")]


def measure_classifier(workload: Workload) -> list[Row]:
    """Measure training images/s of classifiers: as they are commonly trained, and as they are here."""
    pool = CounterfactualPool.of(workload.student_samples)
    wanted = workload.settings.num_classifier_images
    composed, labels = compose_in_memory(pool, workload.composition, max(wanted, 2 * COMMON_BATCH_SIZE), workload.seed)
    images, shapes = from_bytes(torch.from_numpy(composed)), torch.from_numpy(labels[:, 0].copy())
    # The precision that this processor is good at has to reach the target, side by side as a run trains classifiers.
    several = num_side_by_side(workload.num_classifiers, workload.device)
    judged, factor = ("bf16", 4) if has_bf16_units(workload.device) else ("fp32", 2)
    common = "DataLoader of float images, Adadelta"
    trainings: list[tuple[Row, Callable[[], float], int | None]] = []
    for number in sorted({1, several}):
        suffix = "" if number == 1 else f", {number} side by side"
        row = Row("classifier", common + suffix, 0.0, "images/s", COMMON_BATCH_SIZE, "fp32")
        train = partial(_train_commonly, images, shapes, pool.num_classes, workload)
        trainings.append((row, partial(rate_side_by_side, train, number), None))
        for precision in PRECISIONS:
            what = f"counterfactuals on the fly, {precision}{suffix}"
            row = Row("classifier", what, 0.0, "images/s", workload.fit.batch_size, precision)
            train = partial(_train_as_here, pool, workload, precision)
            target = factor if (number, precision) == (several, judged) else None
            trainings.append((row, partial(rate_side_by_side, train, number), target))
    rates = take_turns({row.what: rate for row, rate, _ in trainings})
    rows = [(replace(row, value=rates[row.what]), target) for row, _, target in trainings]
    return [
        row if row.what == common else row.compared(row.value / rates[common], common, target) for row, target in rows
    ]


class Timed(NamedTuple):
    """When a training had warmed up, when it ended, both in seconds, and how many images it saw in between."""

    start: float
    end: float
    num_images: int


def rate_side_by_side(train: Callable[[], Timed], number: int) -> float:
    """Return the images/s of classifiers that are trained at a time: one with all threads, several with one each."""
    trainings = [train()] if number == 1 else run_side_by_side([train] * number, torch.device("cpu"))
    starts, ends, num_images = zip(*trainings, strict=True)
    return sum(num_images) / (max(ends) - min(starts))


def _now() -> float:
    wait_for_device()
    return time.perf_counter()


def _train_commonly(images: Tensor, labels: Tensor, num_classes: int, workload: Workload) -> Timed:
    """Train a classifier as it is commonly done."""
    device = workload.device
    with seeded(workload.seed, "benchmark-classifier"):
        classifier = DigitClassifier(num_classes).to(device).train()
    optimiser = torch.optim.Adadelta(classifier.parameters(), lr=1.0)
    shuffled = torch_generator(workload.seed, "benchmark-classifier")
    loader = DataLoader(TensorDataset(images, labels), COMMON_BATCH_SIZE, shuffle=True, generator=shuffled)
    warm_up = min(WARM_UP_STEPS, len(loader) - 1)
    start, num_images = 0.0, 0
    for step, (batch, targets) in enumerate(loader):
        if step == warm_up:
            start, num_images = _now(), 0
        logits = classifier.head(classifier.trunk(batch.to(device)))
        loss = F.cross_entropy(logits, targets.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        num_images += len(batch)
    return Timed(start, _now(), num_images)


def _train_as_here(pool: CounterfactualPool, workload: Workload, precision: Precision) -> Timed:
    """Train a classifier as a run does, timed from one step's start to the last one's."""
    size = workload.fit.batch_size
    changes = {"num_images": max(workload.settings.num_classifier_images, 2 * size), "precision": precision}
    fit = workload.fit.model_copy(update=changes)
    last = fit.num_steps - 1
    first = min(WARM_UP_STEPS, last - 1)
    draw = pool.draw_batch(workload.composition, workload.seed, "benchmark-classifier")
    times: dict[int, float] = {}

    def timed_draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        if step in (first, last):
            times[step] = _now()
        return draw(step, batch_size)

    fit_classifier(timed_draw, fit, workload.seed, workload.compute, pool.num_classes)
    return Timed(times[first], times[last], (last - first) * size)


def measure_distillation(workload: Workload) -> list[Row]:
    """Measure steps/s of each mechanism's distillation, and the share that is not the networks' arithmetic."""
    rows = []
    for mechanism in MECHANISMS:
        pairs = workload.teacher_samples.read_pairs(mechanism)
        settings = _brief_distillation(workload, mechanism)
        turns = in_turns(
            {
                "loop": partial(_loop_rate, mechanism, settings, workload),
                "arithmetic": partial(_arithmetic_rate, mechanism, pairs, settings, workload),
            }
        )
        common: dict[str, Any] = {"batch_size": settings.batch_size, "precision": workload.compute.precision}
        rows.append(Row("distillation", mechanism, statistics.median(turns["loop"]), "steps/s", **common))
        # Of neighbouring turns: a share of a few percent is smaller than what a busy machine does to rates.
        ratio = statistics.median(loop / arithmetic for loop, arithmetic in zip(*turns.values(), strict=True))
        share = Row("distillation", f"{mechanism}, share beyond the networks", 100 * (1 - ratio), "%", **common)
        rows.append(share.at_most(10).compared(ratio, "the same steps on one fixed batch"))
    if workload.device.type == "cuda":
        rows += _measure_streams(workload)
    return rows


def _brief_distillation(workload: Workload, mechanism: str) -> Distill:
    """Return the run's settings for the steps that are timed; the first part of them warms up."""
    settings, num_steps = workload.distill[mechanism], workload.settings.num_distillation_steps
    changes = {"num_steps": num_steps, "log_every_steps": min(settings.log_every_steps, num_steps // 2)}
    return settings.model_copy(update=changes)


def _loop_rate(mechanism: str, settings: Distill, workload: Workload) -> float:
    """Distil and return the steps/s between the first losses that are noted and the last."""
    noted: list[tuple[int, float]] = []

    def record(training: str, step: int, losses: Mapping[str, float]) -> None:
        noted.append((step, _now()))

    with listening(record):
        StudentRecipe(mechanism, workload.teacher_samples, settings, workload.seed, workload.compute).distil()
    (first, start), (last, end) = noted[0], noted[-1]
    return (last - first) / (end - start)


def _fixed_batch(
    mechanism: str, pairs: tuple[Tensor, Tensor, Tensor], settings: Distill, workload: Workload
) -> tuple[Distillation, tuple[Tensor, Tensor, Tensor]]:
    """Return the training of a mechanism and one batch on its device."""
    noise, labels, teacher_bytes = pairs
    size = GeneratorSize.of(workload.teacher_samples)
    train = Distillation(mechanism, size, settings, workload.seed, workload.compute)
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
        train.update(step, batch)

    def update(step: int) -> None:
        train.update(step, batch, noted=(step + 1) % settings.log_every_steps == 0 or step + 1 == last)

    return rate_of(update, range(first, last))


def _measure_streams(workload: Workload) -> list[Row]:
    """Measure the three distillations one after the other and side by side on streams of a GPU."""
    read = workload.teacher_samples.read_pairs
    trainings = [_fixed_batch(m, read(m), _brief_distillation(workload, m), workload) for m in MECHANISMS]
    streams = [torch.cuda.Stream() for _ in trainings]
    num_steps = workload.settings.num_distillation_steps

    def one_after_the_other() -> None:
        for train, batch in trainings:
            for step in range(num_steps):
                train.update(step, batch)

    def side_by_side() -> None:
        for step in range(num_steps):
            for (train, batch), stream in zip(trainings, streams, strict=True):
                with torch.cuda.stream(stream):
                    train.update(step, batch)

    side_by_side()
    seconds = seconds_of({"in turn": one_after_the_other, "streams": side_by_side})
    common: dict[str, Any] = {"unit": "steps/s of all three", "precision": workload.compute.precision}
    in_turn = Row("distillation", "all three, one after the other", num_steps / seconds["in turn"], **common)
    beside = Row("distillation", "all three, side by side on CUDA streams", num_steps / seconds["streams"], **common)
    return [in_turn, beside.compared(beside.value / in_turn.value, in_turn.what)]


MEASURES: dict[str, Callable[[Workload], list[Row]]] = {
    "throughput": measure_throughput,
    "sampling": measure_sampling,
    "composition": measure_composition,
    "bias": measure_bias,
    "classifier": measure_classifier,
    "distillation": measure_distillation,
}
