"""What networks of full size cost where nothing is trained yet: random weights, random samples.

Random weights take the time of trained ones. So the figures of ImageNet need neither the published
checkpoint nor a million samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from skdcgn_pipeline.benchmark.frame import (
    Networks,
    Rendering,
    Row,
    forget_gpu_memory,
    gpu_memory,
    measure_renderings,
    rate_of,
)
from skdcgn_pipeline.losses import weighted_sum
from skdcgn_pipeline.losses.adversarial import hinge_discriminator_loss, hinge_generator_loss
from skdcgn_pipeline.losses.distillation import feature_loss, kl_loss, pixel_loss
from skdcgn_pipeline.metrics.cost import take_turns, wait_for_device
from skdcgn_pipeline.networks.discriminator import ProjectionDiscriminator
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import Benchmark, Compute, Distill, Precision
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


def make_networks(settings: Benchmark, distill: Mapping[str, Distill], seed: int, compute: Compute) -> Networks:
    """Return an ImageNet CGN and students of the settings' architectures, all with random weights.

    Raises:
        SettingError: If an architecture cannot make images of the teacher's size.
    """
    teacher = make_random(settings.random_size, seed=seed)
    with seeded(seed, "benchmark-students"):
        architectures = {mechanism: distill[mechanism].student.model_dump() for mechanism in MECHANISMS}
        students = StudentCGN(teacher.noise_dim, teacher.num_classes, teacher.image_size, architectures)
    students.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Networks(teacher, students.requires_grad_(False).eval(), distill, settings, seed, compute)


def measure_rendering(networks: Networks) -> list[Row]:
    """Measure images/s of teacher and students in both precisions, see `measure_renderings`."""
    generators = {"teacher": networks.teacher, "students": networks.students}
    renderings = [
        Rendering(f"{role} {precision}", role, generator, precision)
        for role, generator in generators.items()
        for precision in PRECISIONS
    ]
    return measure_renderings(renderings, networks)


def measure_steps(networks: Networks) -> list[Row]:
    """Measure images/s of distillation: as a run does it, and in a plain fp32 loop of the same networks."""
    settings, device = networks.distill[MEASURED], networks.device
    size, precision = settings.batch_size, networks.compute.precision
    noise, labels, stored = (part.to(device) for part in _random_pairs(networks, size).take(torch.arange(size)))
    images = decode_images(MEASURED, stored)
    distillation, plain = _distillation(networks), _PlainLoop(networks)
    steps: dict[str, Callable[[int], object]] = {
        "plain fp32 loop": lambda step: plain(noise, labels, images),
        "distillation step": lambda step: distillation.update(step, (noise, labels, images)),
    }
    memory: list[Row] = []
    for what, step in steps.items():
        forget_gpu_memory()
        for number in range(settings.judge_every_steps * settings.adversarial_every_judgements):
            step(number)  # every kind of step once: compiled, tuned, allocated
        memory += gpu_memory(Row("distillation", f"{what}, peak GPU memory", 0.0, "GB", size), device)

    numbers = range(networks.settings.num_distillation_steps)
    rates = take_turns({what: partial(rate_of, step, numbers) for what, step in steps.items()})
    plain_rate, rate = (size * steps_per_second for steps_per_second in rates.values())
    reference = Row(
        "distillation", "plain fp32 eager loop of the same networks", plain_rate, "images/s", size, precision="fp32"
    )
    step_row = Row("distillation", "step", rate, "images/s", size, precision)
    with FlopCounterMode(display=False) as counter:
        plain(noise, labels, images)
    with FlopCounterMode(display=False) as repeated, torch.no_grad():
        plain.student(noise, labels)  # which the plain loop renders twice
    flops = (counter.get_total_flops() - repeated.get_total_flops()) * rate / size
    share = 100 * flops / _matrix_rate(device, precision)
    what = "step, share of the rate of a large matrix product"
    compared = step_row.compared(rate / plain_rate, reference.what, at_least=3)
    return [reference, compared, *memory, Row("distillation", what, share, "%", size, precision)]


def measure_data_path(networks: Networks) -> list[Row]:
    """Measure images/s from samples in memory to the device, and how long training waits for them."""
    settings, num_steps = networks.distill[MEASURED], networks.settings.num_distillation_steps
    source = _random_pairs(networks, 4 * settings.batch_size)
    fetch = fetch_by_epochs(source, settings.batch_size, networks.seed, "benchmark-data")
    distillation = _distillation(networks)

    def rate() -> float:
        with BatchLoader(fetch, num_steps, networks.device, settings.fetch_threads) as load:
            return settings.batch_size * rate_of(lambda step: decode_images(MEASURED, load(step)[2]), range(num_steps))

    def waiting() -> float:
        with BatchLoader(fetch, num_steps, networks.device, settings.fetch_threads) as load:
            for step in range(num_steps):
                noise, labels, images = load(step)
                distillation.update(step, (noise, labels, decode_images(MEASURED, images)))
            wait_for_device()
            return 100 * load.data_wait

    waiting()
    measured = take_turns({"rate": rate, "waiting": waiting})
    what = "share of a training spent waiting for data"
    return [
        Row("data", "samples in memory to the device", measured["rate"], "images/s", settings.batch_size),
        Row("data", what, measured["waiting"], "%", settings.batch_size).at_most(5),
    ]


MEASURES: dict[str, Callable[[Networks], list[Row]]] = {
    "throughput": measure_rendering,
    "distillation": measure_steps,
    "data": measure_data_path,
}


class _PlainLoop:
    """Distillation as it is commonly written: fp32, eager, images rendered anew for each of both phases."""

    def __init__(self, networks: Networks) -> None:
        self.settings, device = networks.distill[MEASURED], networks.device
        size, width = GeneratorSize.of(networks.teacher), self.settings.discriminator_width
        with seeded(networks.seed, "benchmark-plain"):
            self.student = make_student(MEASURED, self.settings.student.model_dump(), size).to(device)
            self.discriminator = ProjectionDiscriminator(3, size.num_classes, size.image_size, width).to(device)
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


def _distillation(networks: Networks) -> Distillation:
    """Return the training of the mechanism that stands for all, as a run does it."""
    size = GeneratorSize.of(networks.teacher)
    return Distillation(MEASURED, size, networks.distill[MEASURED], networks.seed, networks.compute)


def _random_pairs(networks: Networks, num_rows: int) -> PairsInMemory:
    """Return noise, labels and random bytes in place of a teacher's images."""
    noise_dim, num_classes, image_size = GeneratorSize.of(networks.teacher)
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
    return 2 * size**3 * rate_of(lambda _: matrix @ matrix, range(NUM_PRODUCTS))
