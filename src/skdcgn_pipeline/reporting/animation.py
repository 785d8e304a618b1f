"""Animations as GIF files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

MILLISECONDS_PER_FRAME = 120


def encode_gif(frames: np.ndarray, milliseconds: int = MILLISECONDS_PER_FRAME) -> bytes:
    """Return frames [T, H, W, 3] uint8 as a GIF that repeats, each frame in the 256 colours that suit it best.

    Args:
        frames: RGB frames; equal neighbours become one that is shown longer.
        milliseconds: How long each frame is shown; GIF knows multiples of 10.
    """
    buffer = io.BytesIO()
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return buffer.getvalue()
