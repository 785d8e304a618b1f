"""What the run's own networks and data paths cost, against what they replace."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.benchmark.frame import PUBLISHED, Row, has_bf16_units, peak_growth, rates_of
from skdcgn_pipeline.benchmark.networks import PRECISIONS, TrainedNetworks, measure_distillation, measure_throughput
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.training import fit_classifier
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool, compose_in_memory
from skdcgn_pipeline.images.bias import apply_bias
from skdcgn_pipeline.images.grey import read_grey_images, threshold_of
from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.parameters import ClassifierFit, Composition, Parameters
from skdcgn_pipeline.runtime.engine import num_side_by_side, run_side_by_side
from skdcgn_pipeline.runtime.seeding import numpy_generator, seeded, torch_generator
from skdcgn_pipeline.samples.drawing import SampleShards, SamplesRecipe
from skdcgn_pipeline.samples.loading import PairSource, open_pairs
from skdcgn_pipeline.samples.pixels import from_bytes
from skdcgn_pipeline.samples.records import ROWS_PER_BLOCK
from skdcgn_pipeline.vocabulary import MECHANISMS

# Of the published code on two x86 cores.
PUBLISHED_COUNTERFACTUALS = 100_000
PUBLISHED_COMPOSITION_SECONDS, PUBLISHED_COMPOSITION_GB = 229.0, 4.75  # double_colored
PUBLISHED_BIASED_IMAGES = 60_000
PUBLISHED_BIAS_SECONDS = {"double_colored": 11.0, "wildlife": 122.0}

COMMON_BATCH_SIZE = 64  # of the usual way to train the classifier


@dataclass(frozen=True)
class Workload(TrainedNetworks):
    """The networks of a run and its data paths.

    Attributes:
        teacher_samples: What students are distilled from.
        student_samples: What counterfactuals are composed from.
        composition: How.
        parameters: All settings of the run.
    """

    teacher_samples: SampleShards
    student_samples: SampleShards
    composition: Composition
    parameters: Parameters

    trained = MECHANISMS
    step_factor = None

    def pairs(self, mechanism: str) -> PairSource:
        """Return what the student of a mechanism learns from."""
        return open_pairs(self.teacher_samples, mechanism)


def measure_sampling(workload: Workload) -> list[Row]:
    """Measure what drawing samples into a store adds to rendering them."""
    generators: dict[str, CounterfactualGenerator] = {"teacher": workload.teacher, "students": workload.students}
    return [row for role, generator in generators.items() for row in _sampling_rows(role, generator, workload)]


def _sampling_rows(role: str, generator: CounterfactualGenerator, workload: Workload) -> list[Row]:
    per_class, precision = workload.settings.num_images_per_class, workload.compute.sampling_precision
    num_rows = per_class * generator.num_classes
    blocks = range(-(-num_rows // ROWS_PER_BLOCK))
    call = workload.render_batch(generator, ROWS_PER_BLOCK, precision)

    def render() -> None:
        for _ in blocks:
            call()

    def draw() -> None:
        with tempfile.TemporaryDirectory() as folder:
            recipe = SamplesRecipe(generator, {"name": role}, per_class, 2000, workload.seed, workload.compute)
            build_in(Path(folder), recipe)

    rates = rates_of({"bare": render, "stored": draw})
    common: dict[str, Any] = {"unit": "rows/s", "batch_size": ROWS_PER_BLOCK, "precision": precision}
    rate = len(blocks) * ROWS_PER_BLOCK * rates["bare"]
    bare = Row("sampling", f"{role}, rendered and thrown away", rate, **common)
    stored = Row("sampling", f"{role}, drawn into a store", num_rows * rates["stored"], **common)
    return [bare, stored.compared(stored.value / bare.value, bare.what)]


def measure_composition(workload: Workload) -> list[Row]:
    """Measure seconds and memory of composing counterfactuals into one array of bytes."""
    pool = CounterfactualPool.of(workload.student_samples)
    num_images = workload.settings.num_counterfactuals
    peaks: list[int | None] = []

    def compose_all() -> None:
        peaks.append(peak_growth(lambda: compose_in_memory(pool, workload.composition, num_images, workload.seed)))

    seconds = 1 / rates_of({"compose": compose_all})["compose"]
    of_published_size = num_images == PUBLISHED_COUNTERFACTUALS
    time_row = Row("composition", f"{num_images:,} counterfactuals composed", seconds, "s")
    ratio = PUBLISHED_COMPOSITION_SECONDS / PUBLISHED_COUNTERFACTUALS * num_images / seconds
    published = f"{PUBLISHED}: {PUBLISHED_COMPOSITION_SECONDS:g} s, {PUBLISHED_COMPOSITION_GB:g} GB for 100,000"
    rows = [(time_row.at_most(4) if of_published_size else time_row).compared(ratio, published)]
    known = [peak for peak in peaks if peak is not None]
    if known:
        # The first repeat takes memory from the system, later ones may find it: the largest counts.
        memory = Row("composition", "peak memory beyond the pools", max(known) / 1e9, "GB")
        if of_published_size and memory.value:
            memory = memory.at_most(1).compared(PUBLISHED_COMPOSITION_GB / memory.value, published)
        rows.append(memory)
    return rows


def measure_bias(workload: Workload) -> list[Row]:
    """Measure seconds of putting grey digits, already in memory, through the run's bias protocol."""
    parameters, variant = workload.parameters, workload.parameters.variant
    source = parameters.images.source
    digits = read_grey_images(source, parameters.assets, workload.seed, variant)["train"]
    num_images = workload.settings.num_biased_images
    repeated = digits[torch.arange(num_images) % len(digits)]

    def colour() -> None:
        apply_bias(
            repeated,
            variant,
            bias_share=1.0,
            generator=numpy_generator(workload.seed, "benchmark-bias"),
            binarise_threshold=threshold_of(source, parameters.prepare.binarise_threshold),
            assets=parameters.assets,
        )

    seconds = 1 / rates_of({"colour": colour})["colour"]
    row = Row("bias", f"{num_images:,} images of {variant} coloured", seconds, "s")
    if num_images == PUBLISHED_BIASED_IMAGES:
        row = row.at_most(5)
    published = PUBLISHED_BIAS_SECONDS.get(variant)
    if published is None:
        return [row]
    ratio = published / PUBLISHED_BIASED_IMAGES * num_images / seconds
    return [row.compared(ratio, f"{PUBLISHED}: {published:g} s for 60,000")]


def measure_classifier(workload: Workload) -> list[Row]:
    """Measure training images/s of classifiers: as they are commonly trained, and as they are here."""
    pool, settings = CounterfactualPool.of(workload.student_samples), workload.parameters.classify
    num_images = max(workload.settings.num_classifier_images, 2 * max(COMMON_BATCH_SIZE, settings.fit.batch_size))
    composed, labels = compose_in_memory(pool, workload.composition, num_images, workload.seed)
    images, shapes = from_bytes(torch.from_numpy(composed)), torch.from_numpy(labels[:, 0].copy())
    # The precision that this processor is good at has to reach the target, side by side as a run trains classifiers.
    several = num_side_by_side(settings.num_classifiers, workload.device)
    judged, factor = ("bf16", 4) if has_bf16_units(workload.device) else ("fp32", 2)
    common = "DataLoader of float images, Adadelta"
    trainings: list[tuple[Row, int, Callable[[], object]]] = []
    for number in sorted({1, several}):
        suffix = "" if number == 1 else f", {number} side by side"
        row = Row("classifier", common + suffix, 0.0, "images/s", COMMON_BATCH_SIZE, "fp32")
        trainings.append((row, number, partial(_train_commonly, images, shapes, pool.num_classes, workload)))
        for precision in PRECISIONS:
            what = f"counterfactuals on the fly, {precision}{suffix}"
            row = replace(row, what=what, batch_size=settings.fit.batch_size, precision=precision)
            fit = settings.fit.model_copy(update={"num_images": num_images, "precision": precision})
            trainings.append((row, number, partial(_train_as_here, pool, fit, workload)))
    rates = rates_of({row.what: partial(train_side_by_side, train, number) for row, number, train in trainings})
    rows: list[Row] = []
    for row, number, _ in trainings:
        row = replace(row, value=number * num_images * rates[row.what])
        target = factor if (number, row.precision) == (several, judged) and common not in row.what else None
        # The first is how classifiers are commonly trained, one at a time.
        rows.append(row.compared(row.value / rows[0].value, common, target) if rows else row)
    return rows


def train_side_by_side(train: Callable[[], object], number: int) -> None:
    """Train classifiers at a time: one with all threads, several with one each."""
    if number == 1:
        train()
    else:
        run_side_by_side([train] * number, torch.device("cpu"))


def _train_commonly(images: Tensor, labels: Tensor, num_classes: int, workload: Workload) -> None:
    """Train a classifier as it is commonly done."""
    device = workload.device
    with seeded(workload.seed, "benchmark-classifier"):
        classifier = DigitClassifier(num_classes).to(device).train()
    optimiser = torch.optim.Adadelta(classifier.parameters(), lr=1.0)
    shuffled = torch_generator(workload.seed, "benchmark-classifier")
    for batch, targets in DataLoader(
        TensorDataset(images, labels), COMMON_BATCH_SIZE, shuffle=True, generator=shuffled
    ):
        loss = F.cross_entropy(classifier.head(classifier.trunk(batch.to(device))), targets.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _train_as_here(pool: CounterfactualPool, fit: ClassifierFit, workload: Workload) -> None:
    """Train a classifier as a run does."""
    draw = pool.draw_labelled_batch(workload.composition, workload.seed, "benchmark-classifier")
    fit_classifier(draw, fit, workload.seed, workload.compute, pool.num_classes)


MEASURES: dict[str, Callable[[Workload], list[Row]]] = {
    "throughput": measure_throughput,
    "sampling": measure_sampling,
    "composition": measure_composition,
    "bias": measure_bias,
    "classifier": measure_classifier,
    "distillation": measure_distillation,
}
