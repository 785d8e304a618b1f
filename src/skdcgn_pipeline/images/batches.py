"""Batches of images drawn from memory or files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from skdcgn_pipeline.images.epochs import DrawBatch, EpochSampler, RowsByClass
from skdcgn_pipeline.images.image_set import ImageFiles, ImagesInMemory, Split
from skdcgn_pipeline.images.reading import crop_randomly
from skdcgn_pipeline.kernels.taking import take_decoded
from skdcgn_pipeline.runtime.progress import Progress
from skdcgn_pipeline.runtime.seeding import numpy_generator, torch_generator
from skdcgn_pipeline.samples.loading import BatchLoader
from skdcgn_pipeline.samples.pixels import IMAGE_SCALE, IMAGE_SHIFT, from_bytes
from skdcgn_pipeline.samples.shards import ahead


def _draw_rows(labels: Tensor, seed: int, purpose: str, take: Callable[[Tensor, Tensor], Tensor]) -> DrawBatch:
    """Return a function that draws training batches: `take` gives the images of row numbers [B] in epochs [B]."""
    sampler = EpochSampler(len(labels), seed, purpose)

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        rows = sampler.rows(step, batch_size)
        epochs = (step * batch_size + torch.arange(batch_size)) // len(labels)
        return take(rows, epochs), labels[rows]

    return draw


def draw_from_split(split: Split, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws training batches from a split, each image as it is."""
    if isinstance(split.rows, ImagesInMemory):
        return draw_from_images(split.rows.images, split.labels, seed, purpose)
    return _draw_rows(split.labels, seed, purpose, lambda rows, epochs: from_bytes(split.rows.take(rows)))


def draw_from_images(
    images: Tensor, labels: Tensor, seed: int, purpose: str, chosen: Tensor | None = None
) -> DrawBatch:
    """Return a function that draws training batches from uint8 images [N, 3, H, W] and labels [N] or [N, K].

    Args:
        images, labels: What is drawn from.
        seed, purpose: As in `EpochSampler`.
        chosen: [M] the rows of an epoch, in which a row may come several times; None takes each once.
    """
    chosen = torch.arange(len(labels)) if chosen is None else chosen

    def take(drawn: Tensor, epochs: Tensor) -> Tensor:
        return take_decoded(images, chosen[drawn], IMAGE_SCALE, IMAGE_SHIFT)

    return _draw_rows(labels[chosen], seed, purpose, take)


def draw_balanced(images: Tensor, labels: Tensor, groups: Tensor, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws every group [N] that has images as often, whatever their number.

    The rest as in `draw_from_images`.
    """
    present, numbers = groups.unique(return_inverse=True)
    rows_of = RowsByClass(numbers, len(present), torch.arange(len(present)))

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        generator = torch_generator(seed, purpose, step)
        rows = rows_of.draw(torch.randint(len(present), (batch_size,), generator=generator), generator)
        return take_decoded(images, rows, IMAGE_SCALE, IMAGE_SHIFT), labels[rows]

    return draw


def draw_crops_from_split(split: Split, image_size: int, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws random parts of a split's images, perhaps mirrored: the usual augmentation.

    Images that are kept as files are cropped whole, before they are resized.
    """
    if not isinstance(split.rows, ImageFiles):
        return crop_randomly_from(draw_from_split(split, seed, purpose), image_size, seed, purpose)
    files = replace(split.rows, image_size=image_size)
    return _draw_rows(
        split.labels, seed, purpose, lambda rows, epochs: from_bytes(files.take_crops(rows, epochs, seed, purpose))
    )


def crop_randomly_from(draw_batch: DrawBatch, image_size: int, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws the same batches, each image cropped at random, resized and perhaps mirrored.

    Counterfactuals are augmented as real images are, so that nothing but their content sets them apart.

    Args:
        draw_batch: Gives images [B, 3, H, W] in [-1, 1] and labels.
        image_size: Height and width of the result.
        seed: Base seed.
        purpose: Word that sets these crops apart from others.
    """

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        images, labels = draw_batch(step, batch_size)
        generator = numpy_generator(seed, f"{purpose}-crop", step)
        return torch.stack([crop_randomly(image, image_size, generator) for image in images]), labels

    return draw


def shape_classes(labels: Tensor) -> Tensor:
    """Return what one head learns: labels [B] themselves, or of labels [B, 3] those of the shape."""
    return labels if labels.ndim == 1 else labels[:, 0]


def mix_batches(first: DrawBatch, second: DrawBatch, share: float) -> DrawBatch:
    """Return a function that draws batches of which `share` come from `second`, rounded to whole images.

    Labels are classes [B]; of counterfactuals, that of the shape.
    """

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        num_second = round(share * batch_size)
        parts = [(first, batch_size - num_second), (second, num_second)]
        images, labels = zip(*(draw_part(step, size) for draw_part, size in parts if size), strict=True)
        return torch.cat(images), torch.cat([*map(shape_classes, labels)])

    return draw


def draw_ahead(draw_batch: DrawBatch, num_steps: int) -> DrawBatch:
    """Return a function that draws the same batches, the next one while the last is in use.

    Args:
        draw_batch: What depends on nothing but step and batch size.
        num_steps: Steps in all; nothing is drawn beyond.
    """

    @cache
    def load(batch_size: int) -> BatchLoader:
        # One thread draws everything, so that what is drawn from need not be safe for several.
        return BatchLoader(lambda step: draw_batch(step, batch_size), num_steps, num_threads=1, num_ahead=1)

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        images, labels = load(batch_size)(step)
        return images, labels

    return draw


def batches_in_order(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images of a split, [B, 3, S, S] in [-1, 1], and their labels; the last batch may be smaller.

    The next batch is read while one is in use. Raises `InterruptedRunError` if a stop was requested.
    """

    def read(rows: Tensor) -> tuple[Tensor, Tensor]:
        return from_bytes(split.rows.take(rows)), split.labels[rows]

    progress = Progress(f"reading {split.name}", len(split), "images")
    with closing(ahead(map(read, torch.arange(len(split)).split(batch_size)), 1)) as batches:
        for images, labels in batches:
            yield images, labels
            progress.advance_or_stop(len(images))
