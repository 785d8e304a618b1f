"""What teacher and students cost, against each other and against how they are commonly trained.

Networks of full size are timed with random weights, which take the time of trained ones, and random samples. So the
figures of ImageNet need neither the published checkpoint nor a million samples.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn

from skdcgn_pipeline.benchmark.frame import (
    BEST,
    COLUMNS,
    Row,
    describe_machine,
    peak_gpu_row,
    rates_of,
)
from skdcgn_pipeline.losses import weighted_sum
from skdcgn_pipeline.losses.adversarial import hinge_discriminator_loss, hinge_generator_loss
from skdcgn_pipeline.losses.distillation import feature_loss, kl_loss, pixel_loss
from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.metrics.cost import measure_rates, wait_for_device
from skdcgn_pipeline.networks.discriminator import ProjectionDiscriminator
from skdcgn_pipeline.networks.interface import GeneratorSize, check_same_interface
from skdcgn_pipeline.networks.programs import LIBRARIES
from skdcgn_pipeline.parameters import Benchmark, Compute, Distill, Precision
from skdcgn_pipeline.runtime.compute import autocast, choose_device
from skdcgn_pipeline.runtime.progress import without_progress
from skdcgn_pipeline.runtime.seeding import seeded, torch_generator
from skdcgn_pipeline.runtime.threads import computing_on
from skdcgn_pipeline.samples.loading import BatchLoader, Fetch, PairsInMemory, PairSource, fetch_by_epochs
from skdcgn_pipeline.samples.pixels import decode_images
from skdcgn_pipeline.students.architectures import make_student
from skdcgn_pipeline.students.distillation import Distillation
from skdcgn_pipeline.students.program import by_onnxruntime
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.imagenet_cgn import make_random
from skdcgn_pipeline.vocabulary import MECHANISMS, channels_of

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

logger = logging.getLogger(__name__)


class Rendering(NamedTuple):
    """A way to render images.

    Attributes:
        name: What the table calls it.
        role: Of whose ways the fastest is compared: `teacher`, `students` ...
        generator: Whose images.
        precision: Of the networks.
    """

    name: str
    role: str
    generator: CounterfactualGenerator
    precision: Precision


@dataclass(frozen=True)
class Networks:
    """Teacher and students that are timed, on random samples.

    Attributes:
        teacher: Any teacher.
        students: Students of its interface.
        distill: How the student of each mechanism is distilled.
        settings: Sizes of the measurements.
        seed: Base seed.
        compute: Device and precision.
        trained: Mechanisms whose training is timed: one stands for all where networks are of one size.
        step_factor: How many times as fast as a plain loop a training step should be; None aims at nothing.
        faster: How many times as fast as their teacher students should be, each at its best batch size.
    """

    teacher: CounterfactualGenerator
    students: StudentCGN
    distill: Mapping[str, Distill]
    settings: Benchmark
    seed: int
    compute: Compute

    trained: ClassVar[Sequence[str]] = ("texture",)
    step_factor: ClassVar[float | None] = 3
    faster: ClassVar[float] = 10

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return choose_device(self.compute.device)

    def renderings(self) -> list[Rendering]:
        """Return the ways to render that are timed, the teacher's first."""
        generators = {"teacher": self.teacher, "students": self.students}
        return [
            Rendering(f"{role} {precision}", role, own, precision)
            for role, own in generators.items()
            for precision in PRECISIONS
        ]

    def render_batch(
        self, generator: CounterfactualGenerator, batch_size: int, precision: Precision
    ) -> Callable[[], Any]:
        """Return what renders one batch with a generator: a network is moved to the device, others take CPU noise."""
        place = torch.device("cpu")
        if isinstance(generator, nn.Module):
            place = self.device
            generator.to(place)
        random = torch_generator(self.seed, "benchmark-throughput", batch_size)
        noise = torch.randn(batch_size, generator.noise_dim, generator=random).to(place)
        labels = (torch.arange(batch_size) % generator.num_classes).to(place)
        compute = self.compute.model_copy(update={"precision": precision})

        @torch.inference_mode()
        def call() -> Any:
            with autocast(compute, place):
                return generator.render(noise, labels)

        return call

    def pairs(self, mechanism: str) -> PairSource:
        """Return what the student of a mechanism learns from: random noise and bytes."""
        noise_dim, num_classes, image_size = GeneratorSize.of(self.teacher)
        num_rows, generator = 4 * self.distill[mechanism].batch_size, torch_generator(self.seed, "benchmark-pairs")
        shape = num_rows, channels_of(mechanism), image_size, image_size
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        noise = torch.randn(num_rows, noise_dim, generator=generator)
        return PairsInMemory(noise, torch.arange(num_rows) % num_classes, images)


@dataclass(frozen=True)
class TrainedNetworks(Networks):
    """Teacher and students that are timed by each runtime that is installed."""

    faster = 20

    def renderings(self) -> list[Rendering]:
        """Return the teacher as a way to render, and students by each runtime, the fastest first."""
        ways: list[tuple[str, CounterfactualGenerator, Precision]] = [
            ("teacher", self.teacher, "fp32"),
            ("students", self.students.fused(), "fp32"),
            ("students by torch", self.students, "fp32"),
            ("students bf16", self.students, "bf16"),
        ]
        if all(find_spec(name) for name in LIBRARIES):
            ways.append(("students by ONNX Runtime", by_onnxruntime(self.students), "fp32"))
        return [Rendering(name, name, generator, precision) for name, generator, precision in ways]


NetworksT = TypeVar("NetworksT", bound=Networks)


def make_networks(settings: Benchmark, distill: Mapping[str, Distill], seed: int, compute: Compute) -> Networks:
    """Return an ImageNet CGN and students of the settings' architectures, all with random weights.

    Raises:
        SettingError: If an architecture cannot make images of the teacher's size.
    """
    teacher = make_random(settings.random_size, seed=seed)
    with seeded(seed, "benchmark-students"):
        architectures = {mechanism: distill[mechanism].student.arguments() for mechanism in MECHANISMS}
        students = StudentCGN(teacher.noise_dim, teacher.num_classes, teacher.image_size, architectures)
    students.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Networks(teacher, students.requires_grad_(False).eval(), distill, settings, seed, compute)


def tabulate(
    measures: Mapping[str, Callable[[NetworksT], list[Row]]],
    networks: NetworksT,
    command: Callable[[str], str] = lambda group: "",
) -> pd.DataFrame:
    """Measure every group, or the one that the settings name.

    Args:
        measures: What to measure, by group.
        networks: What is timed.
        command: Gives the command that measures a group again.

    Returns:
        A row per measurement, with `COLUMNS`: those of `Row`, `threads`, the `command` that measures
        the row's group again, `machine` and `versions`.

    Raises:
        SettingError: If the students are not of this teacher's interface.
        InterruptedRunError: If a stop was requested.
    """
    check_same_interface(networks.teacher, networks.students)
    machine, settings = describe_machine(networks.device), networks.settings
    rows = []
    with computing_on(settings.num_threads), without_progress():
        for group, measure in measures.items():
            if settings.only not in (None, group):
                continue
            origin = {"threads": torch.get_num_threads(), "command": command(group), **machine}
            for row in measure(networks):
                rows.append(asdict(row) | origin)
                logger.info("%s: %s: %.4g %s", row.group, row.what, row.value, row.unit)
    types = {"batch_size": "Int64", "threads": "Int64", "ratio": "float64", "met": "boolean"}
    return pd.DataFrame(rows, columns=COLUMNS).astype(types)


# --- rendering -----------------------------------------------------------------------------------


def measure_throughput(networks: Networks) -> list[Row]:
    """Measure images/s of all three mechanisms by batch size, and the GPU memory that it takes.

    A batch that the memory of a GPU cannot hold is left out and told. Students should be `faster`.
    """
    renderings, device = networks.renderings(), networks.device
    reference = renderings[0].name
    rates: dict[str, list[Row]] = {rendering.name: [] for rendering in renderings}
    memory: list[Row] = []
    for batch_size in networks.settings.batch_sizes:
        calls = {}
        for name, _, generator, precision in renderings:
            call = networks.render_batch(generator, batch_size, precision)
            row = Row("throughput", f"{name}, peak GPU memory", 0.0, "GB", batch_size, precision)
            try:
                memory += peak_gpu_row(row, call, device)
            except torch.OutOfMemoryError:
                logger.warning("%s: no memory for a batch of %d", name, batch_size)
                continue
            calls[name] = call
        measured = measure_rates(calls, batch_size)
        for name, _, _, precision in renderings:
            if name in measured:
                row = Row("throughput", name, measured[name], "images/s", batch_size, precision)
                if name != reference and measured.get(reference):
                    row = row.compared(row.value / measured[reference], f"{reference}, same batch size")
                rates[name].append(row)
    return [*(row for rows in rates.values() for row in rows), *memory, *_best_of(renderings, rates, networks.faster)]


def _best_of(renderings: Sequence[Rendering], rates: Mapping[str, Sequence[Row]], faster: float) -> list[Row]:
    """Return the fastest row of each role, compared with the teacher's, which is the first."""
    best: dict[str, Row] = {}
    for name, role, _, _ in renderings:
        for row in rates[name]:
            if role not in best or row.value > best[role].value:
                best[role] = replace(row, what=f"{role}, {BEST}", ratio=None, reference="")
    first = renderings[0].role
    for role, row in best.items():
        if role != first and first in best:
            target = faster if role == "students" else None
            best[role] = row.compared(row.value / best[first].value, best[first].what, target)
    return [*best.values()]


# --- distillation --------------------------------------------------------------------------------


def measure_distillation(networks: Networks) -> list[Row]:
    """Measure steps/s of distillation: as a run does it, and in a plain fp32 loop of the same networks."""
    return [row for mechanism in networks.trained for row in _distillation_rows(mechanism, networks)]


def distil(task: Distillation, fetch: Fetch, num_steps: int) -> float:
    """Train so many steps on what is fetched; returns the percentage of the time that they wait for it."""
    with BatchLoader(fetch, num_steps, task.device, task.settings.fetch_threads) as load:
        for step in range(num_steps):
            noise, labels, stored = load(step)
            task.update(step, (noise, labels, decode_images(task.name, stored)))
        wait_for_device()
        return 100 * load.data_wait


def _distillation_rows(mechanism: str, networks: Networks) -> list[Row]:
    settings, device, precision = networks.distill[mechanism], networks.device, networks.compute.precision
    # Every kind of step at least once: compiled, tuned, allocated by the first call.
    every_kind = settings.judge_every_steps * settings.adversarial_every_judgements
    num_steps = max(networks.settings.num_distillation_steps, every_kind)
    fetch = fetch_by_epochs(networks.pairs(mechanism), settings.batch_size, networks.seed, "benchmark-data")
    task = Distillation(mechanism, GeneratorSize.of(networks.teacher), settings, networks.seed, networks.compute)
    plain, shares = _PlainLoop(mechanism, networks), list[float]()
    noise, labels, stored = (part.to(device) for part in fetch(0))
    images = decode_images(mechanism, stored)

    def run_plain() -> None:
        for _ in range(num_steps):
            plain(noise, labels, images)

    row = Row("distillation", mechanism, 0.0, "steps/s", settings.batch_size, precision)
    plain_row = replace(row, what=f"{mechanism}, plain fp32 loop of the same networks", precision="fp32")
    calls = {plain_row.what: run_plain, row.what: lambda: shares.append(distil(task, fetch, num_steps))}
    memory = [
        peak
        for what, call in calls.items()
        for peak in peak_gpu_row(replace(row, what=f"{what}, peak GPU memory", unit="GB"), call, device)
    ]
    rates = rates_of(calls)
    plain_row, row = (replace(own, value=num_steps * rates[own.what]) for own in (plain_row, row))
    waiting = replace(row, what=f"{mechanism}, share of the time spent waiting for data", unit="%")
    return [
        plain_row,
        row.compared(row.value / plain_row.value, plain_row.what, networks.step_factor),
        replace(waiting, value=statistics.median(shares)).at_most(5),
        *memory,
    ]


MEASURES: dict[str, Callable[[Networks], list[Row]]] = {
    "throughput": measure_throughput,
    "distillation": measure_distillation,
}


class _PlainLoop:
    """Distillation as it is commonly written: fp32, eager, images rendered anew for each of both phases."""

    def __init__(self, mechanism: str, networks: Networks) -> None:
        self.settings, device = networks.distill[mechanism], networks.device
        size, width = GeneratorSize.of(networks.teacher), self.settings.discriminator_width
        with seeded(networks.seed, "benchmark-plain"):
            self.student = make_student(mechanism, self.settings.student.arguments(), size).to(device)
            channels = channels_of(mechanism)
            self.discriminator = ProjectionDiscriminator(channels, size.num_classes, size.image_size, width).to(device)
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
