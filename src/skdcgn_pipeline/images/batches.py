"""Batches of images drawn from memory or files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from skdcgn_pipeline.images.epochs import DrawBatch, EpochSampler
from skdcgn_pipeline.images.image_set import ImagesInMemory, Split
from skdcgn_pipeline.images.reading import crop_randomly
from skdcgn_pipeline.images.stored import ImageFiles
from skdcgn_pipeline.kernels.taking import take_decoded
from skdcgn_pipeline.runtime.progress import Progress, stop_requested
from skdcgn_pipeline.runtime.seeding import numpy_generator
from skdcgn_pipeline.samples.pixels import IMAGE_SCALE, IMAGE_SHIFT, from_bytes


def draw_from_split(split: Split, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws training batches from a split, each image as it is."""
    if isinstance(split.rows, ImagesInMemory):
        return draw_from_images(split.rows.images, split.labels, seed, purpose)
    sampler = EpochSampler(len(split), seed, purpose)

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        rows = sampler.rows(step, batch_size)
        return from_bytes(split.rows.take(rows)), split.labels[rows]

    return draw


def draw_from_images(images: Tensor, labels: Tensor, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws training batches from uint8 images [N, 3, H, W] and labels [N]."""
    sampler = EpochSampler(len(labels), seed, purpose)

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        rows = sampler.rows(step, batch_size)
        return take_decoded(images, rows, IMAGE_SCALE, IMAGE_SHIFT), labels[rows]

    return draw


def draw_crops_from_split(split: Split, image_size: int, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws random parts of a split's images, perhaps mirrored: the usual augmentation.

    Images that are kept as files are cropped whole, before they are resized.
    """
    files = split.rows
    if not isinstance(files, ImageFiles):
        return crop_randomly_from(draw_from_split(split, seed, purpose), image_size, seed, purpose)
    sampler, sized = EpochSampler(len(split), seed, purpose), replace(files, image_size=image_size)

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        rows = sampler.rows(step, batch_size)
        epochs = (step * batch_size + torch.arange(batch_size)) // len(split)
        return from_bytes(sized.take_crops(rows, epochs, seed, purpose)), split.labels[rows]

    return draw


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


def draw_ahead(draw_batch: DrawBatch, num_steps: int) -> DrawBatch:
    """Return a function that draws the same batches, the next one while the last is in use.

    Args:
        draw_batch: What depends on nothing but step and batch size.
        num_steps: Steps in all; nothing is drawn beyond.
    """
    # One thread draws everything, so that what is drawn from need not be safe for several.
    pool = ThreadPoolExecutor(1)
    pending: dict[tuple[int, int], Future[tuple[Tensor, Tensor]]] = {}

    def submit(step: int, batch_size: int) -> Future[tuple[Tensor, Tensor]]:
        return pool.submit(draw_batch, step, batch_size)

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        batch = pending.pop((step, batch_size), None) or submit(step, batch_size)
        for other in pending.values():
            other.cancel()
        pending.clear()
        if step + 1 < num_steps:
            pending[step + 1, batch_size] = submit(step + 1, batch_size)
        return batch.result()

    return draw


def batches_in_order(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images of a split, [B, 3, S, S] in [-1, 1], and their labels; the last batch may be smaller.

    The next batch is read while one is in use.

    Raises:
        InterruptedRunError: If a stop was requested.
    """
    num_batches = -(-len(split) // batch_size)

    def draw(step: int, size: int) -> tuple[Tensor, Tensor]:
        rows = torch.arange(step * size, min((step + 1) * size, len(split)))
        return from_bytes(split.rows.take(rows)), split.labels[rows]

    ahead = draw_ahead(draw, num_batches)
    progress = Progress(f"reading {split.name}", len(split), "images")
    for step in range(num_batches):
        images, labels = ahead(step, batch_size)
        yield images, labels
        progress.advance(len(images))
        if stop_requested() and progress.done < progress.total:
            progress.interrupt()
