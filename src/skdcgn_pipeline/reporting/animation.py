"""Animations as GIF files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

MILLISECONDS_PER_FRAME = 120  # GIF knows multiples of 10


def encode_gif(frames: np.ndarray) -> bytes:
    """Return frames [T, H, W, 3] uint8 as a GIF that repeats, each frame in the 256 colours that suit it best.

    Args:
        frames: RGB frames; equal neighbours become one that is shown longer.
    """
    buffer = io.BytesIO()
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=MILLISECONDS_PER_FRAME, loop=0)
    return buffer.getvalue()
