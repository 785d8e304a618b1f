"""What networks of full size cost where nothing is trained yet: random weights, random samples.

Random weights take the time of trained ones. So the figures of ImageNet need neither the published
checkpoint nor a million samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from skdcgn_pipeline.benchmark.frame import (
    Rendering,
    Row,
    forget_gpu_memory,
    gpu_memory,
    measure_renderings,
    tabulate,
)
from skdcgn_pipeline.losses import weighted_sum
from skdcgn_pipeline.losses.adversarial import hinge_discriminator_loss, hinge_generator_loss
from skdcgn_pipeline.losses.distillation import feature_loss, kl_loss, pixel_loss
from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.metrics.cost import take_turns, wait_for_device
from skdcgn_pipeline.networks.discriminator import ProjectionDiscriminator
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import Benchmark, Compute, Distill, Precision
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.seeding import seeded, torch_generator
from skdcgn_pipeline.samples.loading import BatchLoader, PairsInMemory, fetch_by_epochs
from skdcgn_pipeline.samples.pixels import decode_images
from skdcgn_pipeline.students.architectures import make_student
from skdcgn_pipeline.students.distillation import Distillation
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.imagenet_cgn import make_random
from skdcgn_pipeline.vocabulary import MECHANISMS

# One mechanism stands for all: the networks are of one size.
MEASURED = "texture"
MATRIX_SIZE = {"cuda": 8192, "cpu": 256}
NUM_PRODUCTS = 10
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


@dataclass(frozen=True)
class RandomNetworks:
    """Networks of random weights, at the settings of a run.

    Attributes:
        teacher: Any teacher.
        students: Students of its interface.
        distill: How the student of each mechanism is distilled.
        settings: Sizes of the measurements.
        seed: Base seed.
        compute: Device and precision.
    """

    teacher: CounterfactualGenerator
    students: StudentCGN
    distill: Mapping[str, Distill]
    settings: Benchmark
    seed: int
    compute: Compute

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return choose_device(self.compute.device)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Length of the noise, number of classes, image size."""
        return self.teacher.noise_dim, self.teacher.num_classes, self.teacher.image_size


def make_networks(settings: Benchmark, distill: Mapping[str, Distill], seed: int, compute: Compute) -> RandomNetworks:
    """Return an ImageNet CGN and students of the settings' architectures, all with random weights.

    Raises:
        SettingError: If an architecture cannot make images of the teacher's size.
    """
    teacher = make_random(settings.random_size, seed=seed)
    with seeded(seed, "benchmark-students"):
        architectures = {mechanism: distill[mechanism].student.model_dump() for mechanism in MECHANISMS}
        students = StudentCGN(teacher.noise_dim, teacher.num_classes, teacher.image_size, architectures)
    students.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return RandomNetworks(teacher, students.requires_grad_(False).eval(), distill, settings, seed, compute)


def measure_rendering(networks: RandomNetworks) -> list[Row]:
    """Measure images/s of teacher and students in both precisions, see `measure_renderings`."""
    generators = {"teacher": networks.teacher, "students": networks.students}
    renderings = [
        Rendering(f"{role} {precision}", role, generator, precision)
        for role, generator in generators.items()
        for precision in PRECISIONS
    ]
    return measure_renderings(
        renderings, networks.settings.batch_sizes, networks.compute, networks.device, networks.seed
    )


def measure_steps(networks: RandomNetworks) -> list[Row]:
    """Measure images/s of distillation: as a run does it, and in a plain fp32 loop of the same networks."""
    settings, device = networks.distill[MEASURED], networks.device
    batch = tuple(
        part.to(device) for part in _random_pairs(networks, settings.batch_size).take(torch.arange(settings.batch_size))
    )
    noise, labels, images = batch[0], batch[1], decode_images(MEASURED, batch[2])
    own = Distillation(MEASURED, GeneratorSize(*networks.sizes), settings, networks.seed, networks.compute)
    plain = _PlainLoop(networks.sizes, settings, networks.seed, device)
    num_steps = networks.settings.num_distillation_steps
    steps: dict[str, Callable[[int], object]] = {
        "own": lambda step: own.update(step, (noise, labels, images)),
        "plain": lambda step: plain(noise, labels, images),
    }
    memory: list[Row] = []
    common: dict[str, Any] = {"batch_size": settings.batch_size}
    for name, what in (("plain", "plain fp32 loop"), ("own", "distillation step")):
        forget_gpu_memory()
        for step in range(settings.judge_every_steps * settings.adversarial_every_judgements):
            steps[name](step)  # every kind of step once: compiled, tuned, allocated
        memory += gpu_memory(Row("distillation", f"{what}, peak GPU memory", 0.0, "GB", **common), device)

    def rate(step: Callable[[int], object]) -> float:
        wait_for_device()
        start = time.perf_counter()
        for number in range(num_steps):
            step(number)
        wait_for_device()
        return num_steps * settings.batch_size / (time.perf_counter() - start)

    rates = take_turns({name: partial(rate, step) for name, step in steps.items()})
    precision = networks.compute.precision
    reference = "plain fp32 eager loop of the same networks"
    step_row = Row("distillation", "step", rates["own"], "images/s", precision=precision, **common)
    measured = [
        Row("distillation", reference, rates["plain"], "images/s", precision="fp32", **common),
        step_row.compared(rates["own"] / rates["plain"], reference, at_least=3),
        *memory,
    ]
    with FlopCounterMode(display=False) as counter:
        plain(noise, labels, images)
    rendered_once = counter.get_total_flops() - plain.repeated_flops(noise, labels)
    done = rendered_once * rates["own"] / settings.batch_size
    share = 100 * done / _matrix_rate(device, precision)
    what = "step, share of the rate of a large matrix product"
    return [*measured, Row("distillation", what, share, "%", precision=precision, **common)]


def measure_data_path(networks: RandomNetworks) -> list[Row]:
    """Measure images/s from samples in memory to the device, and how long training waits for them."""
    settings, device = networks.distill[MEASURED], networks.device
    num_steps = networks.settings.num_distillation_steps
    source = _random_pairs(networks, 4 * settings.batch_size)
    fetch = fetch_by_epochs(source, settings.batch_size, networks.seed, "benchmark-data")
    common: dict[str, Any] = {"batch_size": settings.batch_size}

    def rate() -> float:
        with BatchLoader(fetch, num_steps, device, settings.fetch_threads) as load:
            wait_for_device()
            start = time.perf_counter()
            for step in range(num_steps):
                decode_images(MEASURED, load(step)[2])
            wait_for_device()
            return num_steps * settings.batch_size / (time.perf_counter() - start)

    train = Distillation(MEASURED, GeneratorSize(*networks.sizes), settings, networks.seed, networks.compute)

    def waiting() -> float:
        with BatchLoader(fetch, num_steps, device, settings.fetch_threads) as load:
            for step in range(num_steps):
                noise, labels, images = load(step)
                train.update(step, (noise, labels, decode_images(MEASURED, images)))
            wait_for_device()
            return 100 * load.data_wait

    waiting()
    measured = take_turns({"rate": rate, "waiting": waiting})
    waited = Row("data", "share of a training spent waiting for data", measured["waiting"], "%", **common)
    return [Row("data", "samples in memory to the device", measured["rate"], "images/s", **common), waited.at_most(5)]


MEASURES: dict[str, Callable[[RandomNetworks], list[Row]]] = {
    "throughput": measure_rendering,
    "distillation": measure_steps,
    "data": measure_data_path,
}


def run_network_benchmark(networks: RandomNetworks, arguments: Sequence[str] = ()) -> pd.DataFrame:
    """Measure every group, or the one that the settings name; returns and raises as `tabulate`."""
    measures = {group: partial(measure, networks) for group, measure in MEASURES.items()}
    return tabulate(measures, networks.settings, networks.device, arguments)


class _PlainLoop:
    """Distillation as it is commonly written: fp32, eager, images rendered anew for each of both phases."""

    def __init__(self, sizes: tuple[int, int, int], settings: Distill, seed: int, device: torch.device) -> None:
        self.settings = settings
        with seeded(seed, "benchmark-plain"):
            self.student = make_student(MEASURED, settings.student.model_dump(), GeneratorSize(*sizes)).to(device)
            self.discriminator = ProjectionDiscriminator(3, *sizes[1:], settings.discriminator_width).to(device)
        self._student_optimiser = torch.optim.Adam(self.student.parameters(), 2e-4, (0.0, 0.9))
        self._discriminator_optimiser = torch.optim.Adam(self.discriminator.parameters(), 2e-4, (0.0, 0.9))

    def __call__(self, noise: Tensor, labels: Tensor, teacher_images: Tensor) -> None:
        """Update discriminator and student once."""
        with torch.no_grad():
            student_images = self.student(noise, labels)
        logits = [self.discriminator(images, labels).logits for images in (student_images, teacher_images)]
        self._discriminator_optimiser.zero_grad()
        hinge_discriminator_loss(*logits).backward()
        self._discriminator_optimiser.step()

        student_images = self.student(noise, labels)
        of_student, of_teacher = (self.discriminator(images, labels) for images in (student_images, teacher_images))
        terms = {
            "pixel": pixel_loss(student_images, teacher_images),
            "feature": feature_loss(of_student.features, of_teacher.features),
            "kl": kl_loss(of_student.class_logits, of_teacher.class_logits, self.settings.kl_temperature),
            "adversarial": hinge_generator_loss(of_student.logits),
        }
        self._student_optimiser.zero_grad()
        weighted_sum(terms, dict.fromkeys(terms, 1.0)).backward()
        self._student_optimiser.step()

    @torch.no_grad()
    def repeated_flops(self, noise: Tensor, labels: Tensor) -> int:
        """Return what the second rendering costs."""
        with FlopCounterMode(display=False) as counter:
            self.student(noise, labels)
        return counter.get_total_flops()


def _random_pairs(networks: RandomNetworks, num_rows: int) -> PairsInMemory:
    """Return noise, labels and random bytes in place of a teacher's images."""
    noise_dim, num_classes, image_size = networks.sizes
    generator = torch_generator(networks.seed, "benchmark-pairs")
    images = torch.randint(256, (num_rows, 3, image_size, image_size), dtype=torch.uint8, generator=generator)
    return PairsInMemory(
        torch.randn(num_rows, noise_dim, generator=generator), torch.arange(num_rows) % num_classes, images
    )


def _matrix_rate(device: torch.device, precision: Precision) -> float:
    """Return the operations per second of a large matrix product: what a device can do at best, measured."""
    size = MATRIX_SIZE.get(device.type, MATRIX_SIZE["cpu"])
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    matrix @ matrix
    wait_for_device()
    start = time.perf_counter()
    for _ in range(NUM_PRODUCTS):
        matrix @ matrix
    wait_for_device()
    return NUM_PRODUCTS * 2 * size**3 / (time.perf_counter() - start)
