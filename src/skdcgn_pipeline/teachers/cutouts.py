"""Images with true masks as a teacher, without any training: noise chooses a row of the class and where it is put.

What a mask shows is continued beyond it, and what it hides is filled in, so that any shape can have any texture and
any background. With one class for all mechanisms, and no placement, the composite is the photograph of the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.recipe import Recipe, Run
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.images.image_set import Split, check_masks
from skdcgn_pipeline.images.inpainting import erode, fill_unknown
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.mechanisms import LabelsLike, MechanismImages, MechanismLabels
from skdcgn_pipeline.parameters import CutoutSettings
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.progress import Progress
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.columns import read_columns, write_columns
from skdcgn_pipeline.samples.drawing import SampleShards, SamplesRecipe, draw_side_by_side
from skdcgn_pipeline.samples.pixels import decode_images, encode_images, from_bytes
from skdcgn_pipeline.vocabulary import CUTOUTS, IMAGE_OF_MECHANISM, MECHANISMS

FILE, COLUMNS = "class_{}.parquet", tuple(IMAGE_OF_MECHANISM.values())
# Of the noise, for the rows of one class. The fewer, the more alike are rows that noise nearby chooses: of photographs,
# the mask by the nearest of 800 other noise vectors has an IoU of 0.67 with 3, of 0.53 with 6.
DIRECTIONS = 3
PLACEMENT = 4  # of the noise: mirrored or not, scale, shift along rows and columns
THUMBNAIL = 8  # pixels of what rows are told apart by
ROWS_PER_PASS = 64
# Pixels at the edge of an object are a mixture of both sides: this many are taken for neither.
OBJECT_EDGE, BACKGROUND_EDGE = 1, 2


class Cutouts:
    """A generator whose images are those of rows of an image set; see `mechanisms.CounterfactualGenerator`.

    The first `DIRECTIONS` numbers of the noise choose the row of class 0, the next those of class 1, and so on: rows of
    several classes are independent, and all mechanisms of one class are of one row. Noise that is nearly the same
    chooses rows that look alike, mostly, so that students can learn which it will be. Every row is as likely.

    Args:
        images: Of the rows, uint8, foregrounds and backgrounds without holes: class after class, each in the order of
            `order_rows`.
        counts: [num_classes] rows of each class, at least one.
        settings: How objects are placed.
    """

    def __init__(self, images: MechanismImages, counts: Tensor, settings: CutoutSettings) -> None:
        self.num_classes, self.image_size = len(counts), images.mask.shape[-1]
        self.noise_dim = self.num_classes * DIRECTIONS + PLACEMENT
        self.images, self.settings = images, settings
        self._counts, self._starts = counts, counts.cumsum(0) - counts

    def rows(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return the rows [N] that noise [N, noise_dim] chooses of classes [N]."""
        columns = labels[:, None] * DIRECTIONS + torch.arange(DIRECTIONS)
        shares = torch.special.ndtr(noise.double().gather(1, columns))  # [N, DIRECTIONS] in [0, 1], all as likely
        first, count = self._starts[labels], self._counts[labels]
        depth = 0
        while (count > 1).any():
            share = shares[:, depth % DIRECTIONS]
            half = count // 2
            border = half / count
            is_first = share < border
            shares[:, depth % DIRECTIONS] = torch.where(is_first, share / border, (share - border) / (1 - border))
            first, count = torch.where(is_first, first, first + half), torch.where(is_first, half, count - half)
            depth += 1
        return first

    def render(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        """Render the mechanisms for noise [N, noise_dim] and labels; on the device of the noise."""
        device, noise = noise.device, noise.detach().cpu()
        images = []
        for mechanism, of_mechanism in vars(MechanismLabels.of(labels)).items():
            rows = self.rows(noise, of_mechanism.cpu().long())
            image = decode_images(mechanism, self.images.of(mechanism)[rows])
            images.append((self._place(image, mechanism, noise) if mechanism != "background" else image).to(device))
        return MechanismImages(*images)

    def _place(self, images: Tensor, mechanism: str, noise: Tensor) -> Tensor:
        """Move objects as the last numbers of the noise say, a mask as what it shows."""
        mirror, scale, shift = self.settings.mirror, self.settings.scale, self.settings.shift
        if not (mirror or scale or shift):
            return images
        normal = noise[:, -PLACEMENT:]
        spread = 2 * torch.special.ndtr(normal) - 1  # uniform in [-1, 1]
        sign = torch.where(normal[:, 0] < 0, -1.0, 1.0) if mirror else torch.ones(len(noise))
        zoom = (1 + scale) ** spread[:, 1]
        zero = torch.zeros(len(noise))
        across = torch.stack([sign / zoom, zero, 2 * shift * spread[:, 2]], 1)
        down = torch.stack([zero, 1 / zoom, 2 * shift * spread[:, 3]], 1)
        grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
        padding = "zeros" if mechanism == "shape" else "border"
        return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def order_rows(codes: Tensor) -> Tensor:
    """Return rows [N] in an order whose halves, and halves of these, lie on two sides of one direction after another.

    Args:
        codes: [N, DIRECTIONS], where rows lie.
    """

    def order(rows: Tensor, depth: int) -> Tensor:
        if len(rows) < 2:
            return rows
        rows = rows[codes[rows, depth % DIRECTIONS].argsort(stable=True)]
        half = len(rows) // 2
        return torch.cat([order(rows[:half], depth + 1), order(rows[half:], depth + 1)])

    return order(torch.arange(len(codes)), 0)


def encode_rows(images: MechanismImages) -> Tensor:
    """Return where the rows of a class [N, DIRECTIONS] lie along the directions in which they differ most.

    Of thumbnails of the three mechanisms, which count alike.
    """
    thumbnails = []
    for mechanism in MECHANISMS:
        image = decode_images(mechanism, images.of(mechanism))
        if mechanism == "texture":  # of which only what the mask shows is known
            image = image * decode_images("shape", images.mask)
        flat = F.adaptive_avg_pool2d(image, THUMBNAIL).flatten(1).double()
        flat = flat - flat.mean(0)
        thumbnails.append(flat / flat.square().sum().sqrt().clamp_min(1e-9))
    together = torch.cat(thumbnails, 1)
    _, _, directions = torch.linalg.svd(together, full_matrices=False)
    codes = together @ directions[:DIRECTIONS].T
    return F.pad(codes, (0, DIRECTIONS - codes.shape[1]))


@dataclass(frozen=True)
class CutoutsRecipe(Recipe[Artifact]):
    """Masks, continued foregrounds and filled backgrounds of the training images, in the order that noise chooses by.

    Attributes:
        images: The image set; its training split has masks.
        settings: How many rows of a class, and how they are placed.

    Raises:
        SettingError: If the training split has no masks, or a class no image in which the mask shows something and
            hides something else.
    """

    kind: ClassVar[str] = CUTOUTS
    folder: ClassVar[str] = "teacher"
    version: ClassVar[int] = 2

    images: StoredImages
    settings: CutoutSettings

    def inputs(self) -> dict[str, Any]:
        """Return the training images and the settings."""
        return {
            "images": self.images.fingerprint_of("train"),
            "num_classes": self.images.num_classes,
            "settings": self.settings.identity(),
        }

    def build(self, writer: ArtifactWriter) -> None:
        """Fill what is not known of the rows.

        Raises:
            InterruptedRunError: If a stop was requested; whole classes are kept.
        """
        split = self.images.split("train")
        check_masks(split)
        chosen = [self._choose(split, label) for label in range(self.images.num_classes)]
        progress = Progress("cutting out", sum(map(len, chosen)), "images")
        for label, (rows, name) in enumerate(zip(chosen, self.images.class_names, strict=True)):
            if writer.has(file := FILE.format(label)):
                progress.done += len(rows)
                continue
            if not (parts := [*_cut_out(split, rows, progress)]):
                expected = f"an image of '{name}' with a mask that shows a part of it"
                raise SettingError("cutouts", expected, "none", "Give such masks, or another teacher.")
            images = [torch.cat(image) for image in zip(*parts, strict=True)]
            order = order_rows(encode_rows(MechanismImages(*images)))
            arrays = {key: image[order].numpy() for key, image in zip(COLUMNS, images, strict=True)}
            writer.write(file, partial(write_columns, columns=arrays))
        progress.finish()

    def _choose(self, split: Split, label: int) -> Tensor:
        """Return rows of a class in order, at most as many as the settings say, drawn at random."""
        rows = (split.labels == label).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=torch_generator(0, "cutouts", label))
        return rows[order[: self.settings.num_images_per_class]].sort().values


def _cut_out(split: Split, rows: Tensor, progress: Progress) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield masks, foregrounds and backgrounds [N, C, S, S] uint8, without rows whose mask shows nothing, or all."""
    assert split.masks is not None
    for part in rows.split(ROWS_PER_PASS):
        images, masks = from_bytes(split.rows.take(part)), split.masks.take(part)
        usable = (masks > 127).flatten(1).any(1) & (masks < 128).flatten(1).any(1)
        if usable.any():
            images, masks = images[usable], masks[usable]
            foregrounds = fill_unknown(images, _inner(masks > 127, OBJECT_EDGE))
            backgrounds = fill_unknown(images, _inner(masks < 128, BACKGROUND_EDGE))
            filled = (torch.from_numpy(encode_images("texture", image)) for image in (foregrounds, backgrounds))
            yield masks, *filled
        progress.advance_or_stop(len(part))


def _inner(masks: Tensor, edge: int) -> Tensor:
    """Return masks without their edge; where nothing would be left, as they are."""
    inner = erode(masks, edge)
    return torch.where(inner.flatten(1).any(1)[:, None, None, None], inner, masks)


def blank_cutouts(num_classes: int, image_size: int) -> Cutouts:
    """Return a generator of the sizes that cut-outs will have, for whatever must be known of it before."""
    images = (torch.zeros(num_classes, c, image_size, image_size, dtype=torch.uint8) for c in (1, 3, 3))
    return Cutouts(MechanismImages(*images), torch.ones(num_classes, dtype=torch.long), CutoutSettings())


def draw_cutouts(
    run: Run, images: StoredImages, settings: CutoutSettings, num_images_per_class: int, rows_per_shard: int
) -> SampleShards:
    """Return samples of the cut-outs of an image set, as they are drawn from any generator; raises as the recipes do.

    Args:
        run: Store and base seed.
        images: The image set.
        settings: How it is cut out.
        num_images_per_class: Rows per class.
        rows_per_shard: Rows of one Parquet file.
    """
    artifact = run.make(CutoutsRecipe(images, settings))
    identity, sizes = {"cutouts": artifact.identity}, (num_images_per_class, rows_per_shard)
    recipe = SamplesRecipe(open_cutouts(artifact), identity, *sizes, run.seed, run.compute, "pool")
    return draw_side_by_side(run, recipe, partial(open_cutouts, artifact))


def open_cutouts(artifact: Artifact) -> Cutouts:
    """Return the generator that the rows of a `CutoutsRecipe` are.

    Raises:
        DamagedFileError: If its file is damaged.
    """
    num_classes = artifact.inputs["num_classes"]
    classes = [read_columns(artifact.path(FILE.format(label)), COLUMNS) for label in range(num_classes)]
    images = (torch.cat([torch.from_numpy(rows[name]) for rows in classes]) for name in COLUMNS)
    counts = torch.tensor([len(rows[COLUMNS[0]]) for rows in classes])
    settings = CutoutSettings.model_validate(artifact.inputs["settings"])
    return Cutouts(MechanismImages(*images), counts, settings)
