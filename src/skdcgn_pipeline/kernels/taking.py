"""Take images out of many, decoded and shifted on the way: what composing reads from memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skdcgn_pipeline import kernels
from skdcgn_pipeline.runtime.errors import SettingError


def take_decoded(images: Tensor, rows: Tensor, scale: float, shift: float, offsets: Tensor | None = None) -> Tensor:
    """Take images, decode them and shift their patches; on a CPU in one pass over memory.

    Args:
        images: [N, C, H, W], uint8 or float32; contiguous ones are not copied. They get no gradient.
        rows: [B] which images.
        scale, shift: A value v stands for `v * scale + shift`, in float32.
        offsets: Integers [B, 2] in 0 .. H or W as (rows, columns), see `mechanisms.shift_patches`; None shifts
            nothing.

    Returns:
        [B, C, H, W], float32; to the bit what decoding and shifting one after the other gives.

    Raises:
        SettingError: If a row or an offset is beyond the images.
    """
    where = torch.zeros(len(rows), 3, dtype=torch.long)
    where[:, 0] = rows
    if offsets is not None:
        where[:, 1:] = offsets
    _check_within(where, [len(images) - 1, *images.shape[2:]])
    if images.device.type != "cpu" or not kernels.enabled():
        decoded = images[rows].float().mul_(scale).add_(shift)
        return decoded if offsets is None else gather_shifted(decoded, offsets)
    from skdcgn_pipeline.kernels import loops

    shape = (*images.shape[1:],)
    taken = torch.empty(len(rows), *shape)
    source, target = images.contiguous().view(-1).numpy(), taken.view(-1).numpy()
    loops.take(source, where.numpy(), shape, np.float32(scale), np.float32(shift), target)
    return taken


def _check_within(where: Tensor, ends: list[int]) -> None:
    if not len(where):
        return
    lowest, highest = (bounds.tolist() for bounds in where.aminmax(dim=0))
    if min(lowest) < 0 or any(bound > end for bound, end in zip(highest, ends, strict=True)):
        beyond = ((where < 0) | (where > torch.tensor(ends))).any(1).nonzero()[0, 0]
        expected = f"rows below {ends[0] + 1} and offsets up to {ends[1:]}"
        raise SettingError("rows", expected, where[beyond].tolist(), "Take rows that the images have.")


def gather_shifted(images: Tensor, offsets: Tensor) -> Tensor:
    """Shift the patches of images [N, C, H, W] of any type on any device, see `mechanisms.shift_patches`."""
    num_images, channels, height, width = images.shape
    rows = (torch.arange(height, device=images.device) + offsets[:, :1]) % height  # [N, H]
    columns = (torch.arange(width, device=images.device) + offsets[:, 1:]) % width  # [N, W]
    index = (rows[:, :, None] * width + columns[:, None, :]).view(num_images, 1, height * width)
    flat = images.reshape(num_images, channels, height * width)
    return flat.gather(2, index.expand(-1, channels, -1)).view_as(images)
