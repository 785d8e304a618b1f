"""What images are made from: noise, labels and patch shifts, drawn by blocks of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.runtime.seeding import torch_generator

# A generator always renders whole blocks of this many rows, whatever the shards are: the kernels'
# rounding may depend on the batch size, and so would the images.
ROWS_PER_BLOCK = 64


def draw_records(
    purpose: str,
    seed: int,
    block: int,
    size: GeneratorSize,
    classes: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Draw what the images of one block of rows are made from; only `classes`, where they are given.

    Returns:
        `row`, `labels` [64], `noise` [64, noise_dim], and the two offsets [64, 2] in 0 .. image_size - 1.
    """
    generator = torch_generator(seed, f"{purpose}-records", block)
    rows = torch.arange(block * ROWS_PER_BLOCK, (block + 1) * ROWS_PER_BLOCK)
    shape = (ROWS_PER_BLOCK, 2)
    return {
        "row": rows,
        "labels": rows % size.num_classes if classes is None else torch.tensor(classes)[rows % len(classes)],
        "noise": torch.randn(ROWS_PER_BLOCK, size.noise_dim, generator=generator),
        "foreground_offset": torch.randint(size.image_size, shape, generator=generator, dtype=torch.int16),
        "background_offset": torch.randint(size.image_size, shape, generator=generator, dtype=torch.int16),
    }
