"""Take images out of many, decoded and shifted on the way: what composing reads from memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from skdcgn_pipeline.runtime.errors import SettingError

_uint = np.uint64  # indices without a sign need no check for negative ones


def take_decoded(images: Tensor, rows: Tensor, scale: float, shift: float, offsets: Tensor | None = None) -> Tensor:
    """Take images, decode them and shift their patches, in one pass over memory.

    Args:
        images: [N, C, H, W], uint8 or float32, on the CPU; contiguous ones are not copied. They get no gradient.
        rows: [B] which images.
        scale, shift: A value v stands for `v * scale + shift`, in float32.
        offsets: Integers [B, 2] in 0 .. H or W as (rows, columns), see `mechanisms.shift_patches`; None shifts
            nothing.

    Returns:
        [B, C, H, W], float32; to the bit what decoding and shifting one after the other gives.

    Raises:
        SettingError: If a row or an offset is beyond the images.
    """
    shape = (*images.shape[1:],)
    taken = torch.empty(len(rows), *shape)
    where = torch.zeros(len(rows), 3, dtype=torch.long)
    where[:, 0] = rows
    if offsets is not None:
        where[:, 1:] = offsets
    source, target = images.contiguous().view(-1).numpy(), taken.view(-1).numpy()
    wrong = _take(source, where.numpy(), len(images), shape, np.float32(scale), np.float32(shift), target)
    if wrong >= 0:
        expected = f"rows below {len(images)} and offsets up to {list(shape[1:])}"
        raise SettingError("rows", expected, where[wrong].tolist(), "Take rows that the images have.")
    return taken


# Without checks for a division by zero, which would keep loops from being vectorised, and, as by default, without
# joining a product and a sum, which would round once where decoding rounds twice.
@njit(nogil=True, error_model="numpy")
def _take(images: Any, where: Any, number: Any, shape: Any, scale: Any, shift: Any, taken: Any) -> Any:
    """Write images; returns the first place whose row or offset is beyond them, or -1."""
    channels, height, width = shape
    twice = np.empty(2 * width, np.float32)
    for place in range(len(where)):
        row, lines, columns = where[place]
        if not (0 <= row < number and 0 <= lines <= height and 0 <= columns <= width):
            return place
        for channel in range(channels):
            for line in range(height):
                shifted = line + lines if line + lines < height else line + lines - height
                source = _uint(((row * channels + channel) * height + shifted) * width)
                target = _uint(((place * channels + channel) * height + line) * width)
                # Each line twice, side by side, and of these the window at its column.
                for column in range(_uint(width)):
                    value = np.float32(images[source + column]) * scale + shift
                    twice[column] = value
                    twice[column + _uint(width)] = value
                for column in range(_uint(width)):
                    taken[target + column] = twice[_uint(columns) + column]
    return -1
