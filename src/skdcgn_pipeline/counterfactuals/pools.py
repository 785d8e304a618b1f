"""Counterfactuals on disk, and samples that are mapped into memory to compose them from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import Recipe, Store
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, check_writable
from skdcgn_pipeline.counterfactuals.composing import IMAGES_PER_PASS, CounterfactualPool
from skdcgn_pipeline.mechanisms import MechanismImages
from skdcgn_pipeline.parameters import Composition
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.samples.pixels import encode_images
from skdcgn_pipeline.samples.shards import BlockRows, Plan, Shards, ShardsRecipe
from skdcgn_pipeline.vocabulary import IMAGE_OF_MECHANISM, MECHANISMS

# Stored counterfactuals are composed in blocks of this many rows, whatever the shards are.
ROWS_PER_BLOCK = 500
# Pools of more bytes are mapped from a file instead of read into memory.
MAPPED_BEYOND_BYTES = 4 * 2**30
MAPPED_COLUMNS = ("labels", *IMAGE_OF_MECHANISM.values())


class CounterfactualShards(Shards):
    """Stored counterfactuals: uint8 composites with the record of what they are made of.

    Columns: `images` [N, 3, H, W] (value / 127.5 - 1), `labels` and `rows` [N, 3] of shape, texture and
    background, `foreground_offset` and `background_offset` [N, 2].
    """

    def read_labelled(self) -> tuple[Tensor, Tensor]:
        """Read all images (uint8) and their labels."""
        columns = self.read("images", "labels")
        return torch.from_numpy(columns["images"]), torch.from_numpy(columns["labels"])


def bytes_of(samples: SampleShards) -> int:
    """Return how many bytes the decoded images of samples have: a mask and two images of three channels."""
    return samples.num_rows * 7 * samples.image_size**2


@dataclass(frozen=True)
class MappedSamplesRecipe(Recipe[dict[str, Tensor]]):
    """Labels and images of samples as tensors that are mapped from files.

    Parquet is for keeping and exchanging; it cannot be mapped.
    """

    kind: ClassVar[str] = "mapped samples"
    folder: ClassVar[str] = "mapped"

    samples: SampleShards

    def inputs(self) -> dict[str, Any]:
        """Return which samples these are."""
        return {"samples": self.samples.artifact.identity}

    def build(self, writer: ArtifactWriter) -> None:
        """Write the columns that are missing, a few MiB at a time."""
        check_writable(writer.directory, bytes_of(self.samples))
        for name in MAPPED_COLUMNS:
            if not writer.has(f"{name}.npy"):
                writer.write(f"{name}.npy", partial(_save_column, self.samples, name))

    def read(self, artifact: Artifact) -> dict[str, Tensor]:
        """Map the columns."""
        # Copy on write, for torch refuses read-only memory with a warning; nobody writes.
        return {name: torch.from_numpy(np.load(artifact.path(f"{name}.npy"), mmap_mode="c")) for name in MAPPED_COLUMNS}


def map_pool(store: Store, samples: Mapping[str, SampleShards]) -> CounterfactualPool:
    """Map samples into memory from files in the store, which are written where they are missing.

    Processes that do the same share the memory. Each mechanism's images come from samples of its own, all with the same
    number of classes.
    """
    arrays = {mechanism: store.make(MappedSamplesRecipe(shards)) for mechanism, shards in samples.items()}
    images = MechanismImages(*(arrays[m][IMAGE_OF_MECHANISM[m]] for m in MECHANISMS))
    labels: Tensor | dict[str, Tensor] = {mechanism: arrays[mechanism]["labels"] for mechanism in MECHANISMS}
    if len({shards.artifact.identity for shards in samples.values()}) == 1:
        labels = arrays["shape"]["labels"]
    classes = set.intersection(*(set(shards.classes) for shards in samples.values()))
    return CounterfactualPool(images, labels, samples["shape"].num_classes, sorted(classes))


def open_pool(store: Store, samples: SampleShards) -> CounterfactualPool:
    """Read samples into memory where they are few, or map them from files in the store; the images are the same."""
    if bytes_of(samples) <= MAPPED_BEYOND_BYTES:
        return CounterfactualPool.of(samples)
    return map_pool(store, dict.fromkeys(MECHANISMS, samples))


def _save_column(samples: SampleShards, name: str, path: Path) -> None:
    """Write a column as NumPy's `save` would, a few MiB at a time."""
    with path.open("wb") as file:
        for number, part in enumerate(samples.stream_parts([name])):
            values = part[name]
            if not number:
                shape = (samples.num_rows, *values.shape[1:])
                header = {"descr": values.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(values).data)


def compose_block(pool: CounterfactualPool, composition: Composition, seed: int, block: int) -> dict[str, np.ndarray]:
    """Compose one block of the counterfactuals that are stored.

    Returns:
        The columns of `CounterfactualShards`, `ROWS_PER_BLOCK` rows of each.
    """
    batch = pool.draw(ROWS_PER_BLOCK, composition, torch_generator(seed, "stored-counterfactuals", block))
    columns = {name: values.numpy() for name, values in vars(batch).items() if name != "images"}
    encoded = [encode_images("texture", part) for part in batch.images.split(IMAGES_PER_PASS)]
    return {"images": np.concatenate(encoded), **columns}


def compose_in_memory(
    pool: CounterfactualPool, composition: Composition, num_images: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compose the counterfactuals that a `CounterfactualsRecipe` stores, into memory.

    Memory beyond the result stays at one block.

    Returns:
        uint8 images [N, 3, H, W] (value / 127.5 - 1) and the labels [N, 3] of shape, texture and background.
    """
    images = np.empty((num_images, 3, pool.image_size, pool.image_size), np.uint8)
    labels = np.empty((num_images, len(MECHANISMS)), np.int64)
    for block, first in enumerate(range(0, num_images, ROWS_PER_BLOCK)):
        columns = compose_block(pool, composition, seed, block)
        rows = min(ROWS_PER_BLOCK, num_images - first)
        images[first : first + rows] = columns["images"][:rows]
        labels[first : first + rows] = columns["labels"][:rows]
    return images, labels


@dataclass(frozen=True)
class CounterfactualsRecipe(ShardsRecipe[CounterfactualShards]):
    """Counterfactuals composed from samples and streamed into shards.

    Attributes:
        samples: The pool.
        composition: How they are composed.
        num_images: How many.
        rows_per_shard: Rows of one Parquet file.
        seed: Base seed.
    """

    kind: ClassVar[str] = "counterfactuals"
    folder: ClassVar[str] = "counterfactual"
    reader: ClassVar[Any] = CounterfactualShards

    samples: SampleShards
    composition: Composition
    num_images: int
    rows_per_shard: int
    seed: int = 0

    def inputs(self) -> dict[str, Any]:
        """Return the samples' identity, the composition, the numbers and the seed."""
        return {
            "samples": self.samples.artifact.identity,
            "composition": self.composition.identity(),
            "num_images": self.num_images,
            "rows_per_shard": self.rows_per_shard,
            "seed": self.seed,
        }

    def plan(self) -> Plan:
        """Return the number and size of the rows."""
        return Plan(self.kind, self.num_images, 3 * self.samples.image_size**2 + 32)

    def open_rows(self, store: Path) -> BlockRows:
        """Return what composes the images."""
        pool = open_pool(Store(store.parent), self.samples)
        return BlockRows(partial(compose_block, pool, self.composition, self.seed), ROWS_PER_BLOCK)
