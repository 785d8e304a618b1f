"""Images as bytes and back: the one place that knows what a byte stands for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skdcgn_pipeline.kernels.taking import take_decoded

# A byte b of an image is b * scale + shift, one of a mask b * scale.
IMAGE_SCALE, IMAGE_SHIFT = 1 / 127.5, -1.0
MASK_SCALE = 1 / 255


def from_bytes(images: Tensor) -> Tensor:
    """Turn uint8 images into floating point in [-1, 1]."""
    return images.float().mul_(IMAGE_SCALE).add_(IMAGE_SHIFT)


def take_decoded_images(mechanism: str, images: Tensor, rows: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Return `decode_images` of some rows, their patches shifted by offsets [B, 2]; see `take_decoded`."""
    scale, shift = (MASK_SCALE, 0.0) if mechanism == "shape" else (IMAGE_SCALE, IMAGE_SHIFT)
    return take_decoded(images, rows, scale, shift, offsets)


def decode_images(mechanism: str, images: Tensor) -> Tensor:
    """Turn stored uint8 images of a mechanism, or composites, into their range: [0, 1] for shape, else [-1, 1]."""
    return images.float().mul_(MASK_SCALE) if mechanism == "shape" else from_bytes(images)


def encode_images(mechanism: str, images: Tensor) -> np.ndarray:
    """Quantise images of a mechanism, or composites, to uint8 of their fixed range."""
    scaled = images.float().mul(255) if mechanism == "shape" else images.float().add(1).mul_(127.5)
    return scaled.round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()
