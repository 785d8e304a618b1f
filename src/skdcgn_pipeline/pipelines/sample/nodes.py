"""Nodes of the sample stage."""

from pathlib import Path

from skdcgn_pipeline.io.tracking import log_tags
from skdcgn_pipeline.parameters import Compute, Sample, Teacher, choose_classes
from skdcgn_pipeline.samples.drawing import SampleShards, draw_samples
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher, open_identified_teacher


def open_teacher(teacher: Teacher, variant: str, assets: str) -> IdentifiedTeacher:
    """Load the teacher and what its images depend on."""
    opened = open_identified_teacher(teacher, variant, assets)
    sha256 = opened.identity["sha256"]
    # An ImageNet CGN may have a file for each of its networks.
    files = {"": sha256} if isinstance(sha256, str) else sha256
    digests = {f"teacher_sha256 {prefix.rstrip('.')}".rstrip(): digest for prefix, digest in files.items()}
    log_tags({"teacher": opened.identity["name"], **digests})
    return opened


def draw_teacher_samples(
    store: Path,
    teacher: IdentifiedTeacher,
    sample: Sample,
    class_lists: dict[str, list[int]],
    seed: int,
    compute: Compute,
) -> SampleShards:
    """Draw the samples that students learn from."""
    return _draw(store, teacher, sample, sample.num_images_per_class, class_lists, seed, compute, "samples")


def draw_heldout_samples(
    store: Path,
    teacher: IdentifiedTeacher,
    sample: Sample,
    class_lists: dict[str, list[int]],
    seed: int,
    compute: Compute,
) -> SampleShards:
    """Draw samples on other noise, on which students are measured."""
    return _draw(store, teacher, sample, sample.num_heldout_per_class, class_lists, seed, compute, "heldout")


def _draw(
    store: Path,
    teacher: IdentifiedTeacher,
    sample: Sample,
    per_class: int,
    class_lists: dict[str, list[int]],
    seed: int,
    compute: Compute,
    purpose: str,
) -> SampleShards:
    classes = choose_classes("sample.classes", sample.classes, teacher.generator.num_classes, class_lists)
    return draw_samples(
        store,
        teacher.generator,
        teacher.identity,
        per_class,
        sample.rows_per_shard,
        seed,
        compute,
        purpose,
        storing=sample,
        classes=classes,
        shard_range=sample.shard_range,
    )
