"""What is measured of a CGN while it is trained, on the training side alone: likeness, diversity and masks.

A CGN that collapses paints one image per class, or empty masks: its composites may still look real one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from skdcgn_pipeline.images.image_set import Split
from skdcgn_pipeline.losses.mechanism import mask_entropy_loss
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, compose
from skdcgn_pipeline.metrics.likeness import Gaussian, StreamedGaussian, frechet_distance
from skdcgn_pipeline.networks.vgg16 import ImageFeatures
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.pixels import decode_images, from_bytes

NUM_MEASURED, MOST_PER_CLASS = 512, 32
# Shares of the real images' diversity, and means of masks, beyond which a teacher has failed.
LOWEST_DIVERSITY, MASK_BOUNDS = 0.25, (0.02, 0.9)
REMEDY = (
    "Look at trained_teacher_sheet; train longer (teacher.fit.num_images), raise teacher.fit.mode_seeking_weight, give "
    "true masks or more images of these classes, or take teacher.name=cutouts where there are masks."
)


def diversity(images: Tensor) -> float:
    """Mean absolute difference of two of the images [K, C, H, W]; 0 for a single one."""
    flat = images.flatten(1)
    return (torch.cdist(flat, flat, p=1).sum() / flat.shape[1] / max(1, len(flat) * (len(flat) - 1))).item()


class TeacherMeasures:
    """Measures of a CGN against the images that it learns from.

    Args:
        split: These images, with true masks where they are known.
        num_classes: Number of classes.
        features: Layers of features; Frechet distances are those of the last one's averages over the image.
        seed: Base seed of the rows and the noise, which are the same for every measure.
    """

    def __init__(self, split: Split, num_classes: int, features: ImageFeatures, seed: int) -> None:
        self.num_classes, self.features, self.seed = num_classes, features, seed
        self.per_class = max(2, min(MOST_PER_CLASS, NUM_MEASURED // num_classes))
        order = torch.randperm(len(split), generator=torch_generator(seed, "teacher-measures-rows"))
        by_class = [order[split.labels[order] == label][: self.per_class] for label in range(num_classes)]
        images = [from_bytes(split.rows.take(rows)) for rows in by_class]
        self._real = self._gaussian(torch.cat(images))
        self._diversity = {"image": [diversity(of_class) for of_class in images]}
        if split.masks is not None:
            masks = [decode_images("shape", split.masks.take(rows)) for rows in by_class]
            self._diversity["mask"] = [diversity(of_class) for of_class in masks]

    def _gaussian(self, images: Tensor) -> Gaussian:
        gaussian = StreamedGaussian()
        with torch.no_grad():
            for part in images.split(128):
                gaussian.update(self.features(part)[-1].float().mean((2, 3)).cpu())
        return gaussian.gaussian()

    def __call__(self, cgn: CounterfactualGenerator, device: torch.device) -> dict[str, float]:
        """Measure a CGN, in eval mode, with one class for all mechanisms.

        Returns:
            `frechet` of factual composites; `mean_mask` and `mask_bits`; `mask_diversity`, `foreground_diversity` and
            `image_diversity`, means over classes; and `lowest_..._diversity`, the lowest class's, as a share of the
            real images' where these are known.
        """
        noise = torch.randn(
            self.per_class, cgn.noise_dim, generator=torch_generator(self.seed, "teacher-measures-noise")
        )
        parts = []
        for label in range(self.num_classes):
            rendered = cgn.render(noise.to(device), torch.full((self.per_class,), label, device=device))
            parts.append(rendered.to("cpu"))
        images = {
            "mask": [part.mask for part in parts],
            "foreground": [part.foreground for part in parts],
            "image": [compose(part) for part in parts],
        }
        masks = torch.cat(images["mask"])
        measures = {
            "frechet": frechet_distance(self._gaussian(torch.cat(images["image"]).to(device)), self._real),
            "mean_mask": masks.mean().item(),
            "mask_bits": mask_entropy_loss(masks).item(),
        }
        for name, of_classes in images.items():
            found = [diversity(of_class) for of_class in of_classes]
            measures[f"{name}_diversity"] = sum(found) / len(found)
            if real := self._diversity.get(name):
                # A class of one image has none to compare with.
                shares = [value / there for value, there in zip(found, real, strict=True) if there > 0]
                measures[f"lowest_{name}_diversity"] = min(shares, default=1.0)
        return measures


def faults_of(measures: Mapping[str, float]) -> list[str]:
    """Return what is wrong with a teacher of these measures, in words; nothing where it is sound."""
    faults = []
    lowest, highest = MASK_BOUNDS
    if not lowest <= measures["mean_mask"] <= highest:
        faults.append(f"masks cover {measures['mean_mask']:.0%} of the image")
    for name, what in (("mask", "masks"), ("image", "images")):
        share = measures.get(f"lowest_{name}_diversity", 1.0)
        if share < LOWEST_DIVERSITY:
            faults.append(f"the {what} of a class have {share:.0%} of the diversity of real ones")
    return faults


def describe_faults(faults: Sequence[str]) -> str:
    """Return one message of what is wrong and what to do."""
    return f"The trained teacher has collapsed: {'; '.join(faults)}. {REMEDY}"
