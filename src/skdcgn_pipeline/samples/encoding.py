"""Images of bytes as PNG, WebP or JPEG, one by one, and back.

The libraries behind Pillow let other threads run while they work, so that a pool of threads encodes or decodes
as many images at a time. What comes out depends on the image and the settings alone.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from skdcgn_pipeline.parameters import ImageEncoding

MODE_OF_CHANNELS = {1: "L", 3: "RGB"}
# Above this, more threads wait for memory rather than decode.
MOST_DECODING_THREADS = 8


def options_of(how: ImageEncoding) -> dict[str, Any]:
    """Return what Pillow's `save` takes for an encoding; speed is chosen over the last tenth of size."""
    if how.encoding == "png":
        return {"format": "PNG", "compress_level": 3}
    if how.encoding == "webp" and how.quality is None:
        return {"format": "WEBP", "lossless": True, "method": 0, "quality": 50}
    if how.encoding == "webp":
        return {"format": "WEBP", "quality": how.quality, "method": 2}
    # Colours at full resolution: students learn every pixel of a texture.
    return {"format": "JPEG", "quality": how.effective_quality, "subsampling": 0}


def encode(images: np.ndarray, how: ImageEncoding, over: Callable[..., Any] = map) -> Iterable[bytes]:
    """Encode images [N, 1 or 3, H, W] uint8, one file's content each; one channel is encoded as grey.

    Args:
        images: What is encoded.
        how: The encoding.
        over: Goes over the images, as `map` does or that of a pool of threads.
    """
    options = options_of(how)

    def encode_one(image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        Image.fromarray(pixels).save(buffer, **options)
        return buffer.getvalue()

    return over(encode_one, images)


def decode(values: Sequence[bytes], row_shape: Sequence[int], over: Callable[..., Any] = map) -> np.ndarray:
    """Decode images that `encode` made; safe to call from several threads at a time.

    Args:
        values: One file's content per image.
        row_shape: (C, H, W) of every image, C 1 or 3.
        over: As in `encode`.

    Returns:
        uint8 [N, C, H, W].

    Raises:
        ValueError: If an image cannot be decoded or is of another size.
    """
    images = np.empty((len(values), *row_shape), np.uint8)
    for image, pixels in zip(images, over(partial(_decode_one, row_shape), values), strict=True):
        image[:] = pixels
    return images


def _decode_one(row_shape: Sequence[int], value: bytes) -> np.ndarray:
    channels, height, width = row_shape
    mode = MODE_OF_CHANNELS[channels]
    try:
        with Image.open(io.BytesIO(value)) as image:
            if image.size != (width, height):
                raise ValueError(f"expected an image of {width} x {height} pixels, got {image.size}")
            # WebP knows no grey: a mask comes back as three equal channels.
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, SyntaxError, EOFError, struct.error) as error:  # what Pillow raises on damaged images
        raise ValueError(f"an image that cannot be decoded ({error})") from error
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def decoding_threads() -> int:
    """Return how many images are decoded at a time where nobody says."""
    return min(MOST_DECODING_THREADS, os.cpu_count() or 1)
