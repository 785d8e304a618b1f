"""Compare students with their teacher on noise that was never trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from skdcgn_pipeline.artifacts.store import build_json
from skdcgn_pipeline.images.batches import from_bytes
from skdcgn_pipeline.images.biased import BiasedImages
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, compose
from skdcgn_pipeline.metrics.cost import count_macs, count_parameters, measure_rates, render_call
from skdcgn_pipeline.metrics.fidelity import (
    FeatureExtractor,
    GaussianStatistics,
    extract_features,
    frechet_distance,
    gaussian_statistics,
    mask_iou,
    mean_absolute_difference,
)
from skdcgn_pipeline.networks.interface import check_same_interface
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.drawing import SampleShards, decode_images
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import MECHANISMS

ALL = "all"
RENDER_BATCH = 256
FIDELITY_COLUMNS = ["mechanism", "l1", "mask_iou", "frechet", "frechet_teacher", "frechet_ratio", "num_images"]
COST_COLUMNS = [f"{role}_{cost}" for cost in ("parameters", "macs", "images_per_s") for role in ("teacher", "student")]


def render_heldout(
    students: StudentCGN, heldout: SampleShards, device: str = "cpu", num_rows: int | None = None
) -> tuple[MechanismImages, MechanismImages]:
    """Return the students' and the teacher's images of the held-out noise, as floating point on the CPU.

    Args:
        students: The students.
        heldout: The teacher's images.
        device: Where the students render, a value of `compute.device`.
        num_rows: The first rows alone; None takes all.
    """
    columns = heldout.read("noise", "labels")
    noise, labels = (torch.from_numpy(columns[name])[:num_rows] for name in ("noise", "labels"))
    with _on(choose_device(device), students) as place:
        batches = [
            students.render(n.to(place), y.to(place)).to("cpu")
            for n, y in zip(noise.split(RENDER_BATCH), labels.split(RENDER_BATCH), strict=True)
        ]
    rendered = MechanismImages(*(torch.cat([batch.of(m) for batch in batches]) for m in MECHANISMS))
    stored = heldout.read_images()[slice(None, num_rows)]
    return rendered, MechanismImages(*(decode_images(m, stored.of(m)) for m in MECHANISMS))


@contextmanager
def _on(device: torch.device, *generators: Any) -> Iterator[torch.device]:
    """Have networks on a device for a while; other generators are left where they are."""
    networks = [generator for generator in generators if isinstance(generator, nn.Module)]
    try:
        for network in networks:
            network.to(device)
        yield device
    finally:
        for network in networks:
            network.to("cpu")


def compose_heldout(images: MechanismImages, heldout: SampleShards) -> Tensor:
    """Compose held-out images [N, 3, H, W] with the patch shifts that are recorded with them."""
    columns = heldout.read("foreground_offset", "background_offset")
    return compose(images, *(torch.from_numpy(columns[name]).long() for name in columns))


def measure_likeness(students: StudentCGN, heldout: SampleShards) -> dict[str, float]:
    """Measure how alike single images of students and teacher are, on held-out noise.

    Returns:
        `mask_iou`, and `l1_foreground` and `l1_background` in units of their range.
    """
    mine, theirs = render_heldout(students, heldout)
    return {
        "mask_iou": mask_iou(mine.mask, theirs.mask),
        "l1_foreground": mean_absolute_difference(mine.foreground, theirs.foreground),
        "l1_background": mean_absolute_difference(mine.background, theirs.background),
    }


def measure_fidelity(
    students: StudentCGN,
    heldout: SampleShards,
    training_images: Tensor | None,
    feature_network: FeatureExtractor | None,
    compute: Compute,
) -> pd.DataFrame:
    """Measure how alike students and teacher are, on held-out noise.

    Args:
        students: The students.
        heldout: The teacher's images of noise that was never trained on.
        training_images: uint8 [M, 3, H, W], images of the dataset that the teacher imitates, where they are known.
        feature_network: In whose feature space Frechet distances are measured; None leaves these out.
        compute: Device and precision of the feature network.

    Returns:
        A row per mechanism and one for `all` (the factual composites with their patch shifts): `l1` in
        units of the image's range, `mask_iou` (shape only), `frechet` between student and teacher,
        `num_images`; for `all` also `frechet_teacher` between the teacher's composites and the training
        images and `frechet_ratio`, the first distance over the second.

    Raises:
        SettingError: If the students were made for another noise size, class count or image size.
    """
    check_same_interface(heldout, students)
    student_images, teacher_images = render_heldout(students, heldout, compute.device)

    def statistics_of(images: Tensor) -> GaussianStatistics:
        assert feature_network is not None
        return gaussian_statistics(extract_features(feature_network, images, compute))

    rows = []
    for mechanism in (*MECHANISMS, ALL):
        if mechanism == ALL:
            mine, theirs = (compose_heldout(images, heldout) for images in (student_images, teacher_images))
        else:
            mine, theirs = student_images.of(mechanism), teacher_images.of(mechanism)
        row: dict[str, Any] = {"mechanism": mechanism, "l1": mean_absolute_difference(mine, theirs)}
        if mechanism == "shape":
            row["mask_iou"] = mask_iou(mine, theirs)
            mine, theirs = mine * 2 - 1, theirs * 2 - 1
        if feature_network is not None:
            of_teacher = statistics_of(theirs)
            row["frechet"] = frechet_distance(statistics_of(mine), of_teacher)
            if mechanism == ALL and training_images is not None:
                row["frechet_teacher"] = frechet_distance(of_teacher, statistics_of(from_bytes(training_images)))
                row["frechet_ratio"] = row["frechet"] / row["frechet_teacher"]
        rows.append(row | {"num_images": len(mine)})
    return pd.DataFrame(rows, columns=FIDELITY_COLUMNS)


def measure_costs(
    teacher: CounterfactualGenerator, students: StudentCGN, batch_size: int, device: str = "cpu"
) -> pd.DataFrame:
    """Measure what students and teacher cost, in one process and on one device, a value of `compute.device`.

    A teacher that is no network renders where it likes, of noise on the CPU, and the students beside it.

    Returns:
        A row per mechanism and one for `all`: parameters, multiply-accumulates per image and images/s
        of each; empty where a teacher cannot tell.
    """
    where = choose_device(device) if isinstance(teacher, nn.Module) else torch.device("cpu")
    students = students.fused()
    with _on(where, teacher, students):
        noise = torch.randn(batch_size, teacher.noise_dim, generator=torch_generator(0, "cost")).to(where)
        labels = (torch.arange(batch_size) % teacher.num_classes).to(where)
        return _cost_rows(teacher, students, noise, labels)


def _cost_rows(teacher: CounterfactualGenerator, students: StudentCGN, noise: Tensor, labels: Tensor) -> pd.DataFrame:
    batch_size = len(noise)
    rows = []
    for mechanism in (*MECHANISMS, ALL):
        row: dict[str, Any] = {"mechanism": mechanism}
        calls: dict[str, Callable[[], Any]] = {}
        for role, generator in (("teacher", teacher), ("student", students)):
            one = None if mechanism == ALL else mechanism
            call = render_call(generator, one, noise, labels)
            network: Any = generator
            if one:
                network = generator.network_of(one) if hasattr(generator, "network_of") else None
            row[f"{role}_parameters"] = count_parameters(network)
            row[f"{role}_macs"] = None
            if call is not None:
                calls[role] = call
                macs = count_macs(call)
                row[f"{role}_macs"] = macs and macs // batch_size
        rates = measure_rates(calls, batch_size)
        rows.append(row | {f"{role}_images_per_s": rates.get(role) for role in ("teacher", "student")})
    return pd.DataFrame(rows)


def compare_with_teacher(
    store: Path,
    teacher: IdentifiedTeacher,
    students: StudentCGN,
    students_identity: str,
    heldout: SampleShards,
    biased_images: BiasedImages | None,
    feature_network: FeatureExtractor | None,
    feature_network_identity: str | None,
    batch_size: int,
    compute: Compute,
) -> pd.DataFrame:
    """Measure fidelity and costs, or reuse what was measured; one row per mechanism and one for `all`.

    Without biased images or a feature network the distances that need them are left out.
    """
    inputs = {
        "kind": "comparison",
        "teacher": teacher.identity,
        "students": students_identity,
        "heldout": heldout.artifact.identity,
        "biased_images": None if biased_images is None else biased_images.artifact.identity,
        "feature_network": feature_network_identity,
        "batch_size": batch_size,
        "compute": compute.model_dump(),
    }

    def measure() -> Any:
        # As many training images as composites: the distance of two samples depends on their sizes.
        training_images = None
        if biased_images is not None:
            training_images = biased_images.split("train").images[: heldout.num_rows]
        fidelity = measure_fidelity(students, heldout, training_images, feature_network, compute)
        table = fidelity.merge(measure_costs(teacher.generator, students, batch_size, compute.device), on="mechanism")
        return json.loads(table.to_json(orient="records", double_precision=10))

    return pd.DataFrame(build_json(store, inputs, measure), columns=[*FIDELITY_COLUMNS, *COST_COLUMNS])
