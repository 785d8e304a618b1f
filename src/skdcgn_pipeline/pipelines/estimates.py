"""Numbers that no machine like this one can hold are refused with what they would take, before any work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple

from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import Parameters, choose_classes
from skdcgn_pipeline.runtime.compute import sizes_alone
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.architectures import make_student
from skdcgn_pipeline.vocabulary import MECHANISMS

BYTES_PER_FLOAT = 4
BYTES_PER_TRAINED_WEIGHT = 4 * BYTES_PER_FLOAT  # itself, its gradient and two moments
CHANNELS_OF_ALL = 7  # mask, foreground and background
SMALLEST_SHARE = 50  # encoded images take at least this part of the raw ones
FEWEST_GREY_SHAPES = 1000
MOST_TRAININGS = 100_000


class Need(NamedTuple):
    """What one setting takes.

    Attributes:
        setting, value: As the user writes them.
        amount: Bytes, never more than there will be.
    """

    setting: str
    value: object
    amount: float


def check_estimates(parameters: Parameters, size: GeneratorSize, made: Set[str], data_root: Path) -> None:
    """Refuse a run that fills the disk or the memory by far.

    Args:
        size: Of the teacher, or the least that there can be where there is none.
        made: Names of the datasets that the run makes.
        data_root: Where they are written.

    Raises:
        SettingError: Naming the setting with the estimate.
    """
    disk = shutil.disk_usage(data_root).total
    for kind, there, needs in (
        ("disk", disk, [*_on_disk(parameters, size, made)]),
        ("memory", _memory(), [*_batches(parameters, size), *_networks(parameters, size)]),
    ):
        for need in needs:
            if need.amount > there:
                expected = f"what fits into the {there / 2**30:,.0f} GiB of this machine's {kind}"
                got = f"{need.value}, which takes at least {need.amount / 2**30:,.0f} GiB"
                raise SettingError(need.setting, expected, got, "Lower it.")
    if "accuracy" in made:
        seeds = parameters.classify.num_seeds
        check_number("classify.num_seeds", seeds, parameters.classify.num_classifiers // seeds)


def check_number(setting: str, num_seeds: int, num_each: int) -> None:
    """Refuse more trainings than anybody waits for, with a `SettingError` that tells their number."""
    if (trainings := num_seeds * num_each) > MOST_TRAININGS:
        got = f"{num_seeds}, which is {trainings:,} trainings"
        raise SettingError(setting, f"at most {MOST_TRAININGS:,} trainings in all", got, "Lower it.")


def _memory() -> float:
    """Return the bytes of memory of this machine, without end where it does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def _on_disk(parameters: Parameters, size: GeneratorSize, made: Set[str]) -> Iterator[Need]:
    sample, compose, prepare = parameters.sample, parameters.compose, parameters.prepare
    num_classes = size.num_classes
    if "teacher_samples" in made:
        classes = choose_classes("sample.classes", sample.classes, num_classes, parameters.class_lists)
        num_classes = num_classes if classes is None else len(classes)
    share = 1 if sample.encoding == "raw" else SMALLEST_SHARE
    row = size.image_size**2 / share
    per_class = num_classes * CHANNELS_OF_ALL * row
    for dataset, setting, number, bytes_of_each in (
        ("teacher_samples", "sample.num_images_per_class", sample.num_images_per_class, per_class),
        ("heldout_samples", "sample.num_heldout_per_class", sample.num_heldout_per_class, per_class),
        ("student_samples", "compose.num_pool_images_per_class", compose.num_pool_images_per_class, per_class),
        ("teacher_counterfactuals", "compose.num_images", compose.num_images, 3 * row),
    ):
        if dataset in made:
            yield Need(setting, number, number * bytes_of_each)
    if "biased_images" in made and parameters.images.are_coloured:
        images = prepare.copies * FEWEST_GREY_SHAPES
        yield Need("prepare.copies", prepare.copies, images * 3 * size.image_size**2)


def _batches(parameters: Parameters, size: GeneratorSize) -> Iterator[Need]:
    image = 3 * size.image_size**2 * BYTES_PER_FLOAT
    fit, baseline = parameters.classify.fit, parameters.baseline
    sizes = {
        "classify.fit.batch_size": fit.batch_size,
        "classify.fit.counterfactual_batch_size": fit.counterfactual_batch_size,
        "prepare.feature_network.batch_size": parameters.prepare.feature_network.batch_size,
        "teacher.fit.batch_size": parameters.teacher.fit.batch_size,
        "baseline.batch_size": baseline.batch_size,
        "baseline.num_measured_images": baseline.num_measured_images,
        "report.benchmark_batch_size": parameters.report.benchmark_batch_size,
    }
    for mechanism, settings in parameters.students.items():
        sizes[f"{mechanism}.distill.batch_size"] = settings.batch_size // settings.accumulate_steps
    for setting, number in sizes.items():
        yield Need(setting, number, number * image)


def _networks(parameters: Parameters, size: GeneratorSize) -> Iterator[Need]:
    students = [(f"{name}.distill.student", name, parameters.students[name].student) for name in MECHANISMS]
    students += [(f"baseline.students.{name}", name, student) for name, student in parameters.baseline.students.items()]
    for setting, mechanism, student in students:
        try:
            with sizes_alone():
                network = make_student(mechanism, student.arguments(), size)
            amount = float(sum(weight.numel() for weight in network.parameters()))
        except SettingError:
            continue  # where it is trained, it is told what does not fit
        except (RuntimeError, OverflowError):  # more than can be counted
            amount = float("inf")
        value = f"width {student.width} and embedding_dim {student.embedding_dim}"
        yield Need(setting, value, amount * BYTES_PER_TRAINED_WEIGHT)
    widest = max(1, size.image_size // 8)  # layers halve the image down to 4 pixels and double the channels
    for mechanism, settings in parameters.students.items():
        weights = 8 * (settings.discriminator_width * widest) ** 2
        setting = f"{mechanism}.distill.discriminator_width"
        yield Need(setting, settings.discriminator_width, weights * BYTES_PER_TRAINED_WEIGHT)
    width = parameters.teacher.fit.discriminator_width
    yield Need("teacher.fit.discriminator_width", width, 2 * width**2 * BYTES_PER_TRAINED_WEIGHT)
