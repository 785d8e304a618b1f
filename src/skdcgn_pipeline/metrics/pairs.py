"""Images of students and of their teacher on the same held-out noise, and how they differ one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, compose
from skdcgn_pipeline.metrics.likeness import mask_iou, mean_absolute_difference
from skdcgn_pipeline.networks.interface import check_same_interface
from skdcgn_pipeline.runtime.compute import choose_device, on_device
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.samples.pixels import decode_images
from skdcgn_pipeline.vocabulary import IMAGE_OF_MECHANISM, MECHANISMS

BATCH = 64
OFFSETS = ("foreground_offset", "background_offset")


class HeldoutBatch(NamedTuple):
    """Rows of held-out samples, on the CPU.

    Attributes:
        noise: [N, noise_dim].
        labels: [N].
        teacher: What the teacher made of it, as it is stored.
        offsets: Patch shifts of foreground and background.
    """

    noise: Tensor
    labels: Tensor
    teacher: MechanismImages
    offsets: tuple[Tensor, Tensor]


class Pair(NamedTuple):
    """Images of students and teacher, on the CPU, of the same noise.

    Attributes:
        students, teacher: Images of the mechanisms.
        offsets: Patch shifts of foreground and background.
    """

    students: MechanismImages
    teacher: MechanismImages
    offsets: tuple[Tensor, Tensor]

    @property
    def composites(self) -> tuple[Tensor, Tensor]:
        """Students' and teacher's composites [N, 3, H, W] with the patch shifts that are recorded."""
        return compose(self.students, *self.offsets), compose(self.teacher, *self.offsets)


def heldout_batches(heldout: SampleShards, num_rows: int | None = None) -> Iterator[HeldoutBatch]:
    """Read held-out samples, or the first so many rows of them, batch by batch."""
    left = heldout.num_rows if num_rows is None else num_rows
    for part in heldout.stream_parts(["noise", "labels", *OFFSETS, *IMAGE_OF_MECHANISM.values()]):
        for start in range(0, min(len(part["labels"]), left), BATCH):
            rows = slice(start, min(start + BATCH, left))
            batch = {name: torch.from_numpy(values[rows]) for name, values in part.items()}
            stored = MechanismImages(*(decode_images(m, batch[IMAGE_OF_MECHANISM[m]]) for m in MECHANISMS))
            foreground, background = (batch[name].long() for name in OFFSETS)
            yield HeldoutBatch(batch["noise"], batch["labels"], stored, (foreground, background))
        left -= len(part["labels"])
        if left <= 0:
            return


def heldout_pairs(students: CounterfactualGenerator, heldout: SampleShards, device: str = "cpu") -> Iterator[Pair]:
    """Render the teacher's held-out noise with students, batch by batch, beside what the teacher made of it.

    Raises:
        SettingError: If the students were made for another noise size, class count or image size.
    """
    check_same_interface(heldout, students)
    with on_device(choose_device(device), students) as place:
        for noise, labels, teacher, offsets in heldout_batches(heldout):
            yield Pair(students.render(noise.to(place), labels.to(place)).to("cpu"), teacher, offsets)


def first_images(
    students: CounterfactualGenerator, heldout: SampleShards, num_rows: int
) -> tuple[MechanismImages, MechanismImages]:
    """Return the students' and the teacher's images of the first rows of held-out noise."""
    pairs, count = [], 0
    for pair in heldout_pairs(students, heldout):
        pairs.append(pair)
        count += len(pair.teacher)
        if count >= num_rows:
            break

    def joined(images: list[MechanismImages]) -> MechanismImages:
        return MechanismImages(*(torch.cat([part.of(m) for part in images])[:num_rows] for m in MECHANISMS))

    return joined([pair.students for pair in pairs]), joined([pair.teacher for pair in pairs])


class Differences:
    """Mean differences of single images of students and teacher, by mechanism and of the composites."""

    def __init__(self) -> None:
        self._sums: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.num_images = 0

    def update(self, images: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Add students' and teacher's images of every mechanism or of all of them, in units of their range."""
        count = len(images["shape"][0])
        self.num_images += count
        for name, pair in images.items():
            self._sums[name, "l1"] += mean_absolute_difference(*pair) * count
        self._sums["shape", "mask_iou"] += mask_iou(*images["shape"]) * count

    def of(self, name: str) -> dict[str, float]:
        """Return `l1`, and `mask_iou` of the shape."""
        return {measure: total / self.num_images for (own, measure), total in self._sums.items() if own == name}


def measure_likeness(students: CounterfactualGenerator, heldout: SampleShards) -> dict[str, float]:
    """Measure how alike single images of students and teacher are, on held-out noise.

    Returns:
        `mask_iou`, and `l1_foreground` and `l1_background` in units of their range.
    """
    differences = Differences()
    for pair in heldout_pairs(students, heldout):
        differences.update({m: (pair.students.of(m), pair.teacher.of(m)) for m in MECHANISMS})
    return {
        "mask_iou": differences.of("shape")["mask_iou"],
        "l1_foreground": differences.of("texture")["l1"],
        "l1_background": differences.of("background")["l1"],
    }
