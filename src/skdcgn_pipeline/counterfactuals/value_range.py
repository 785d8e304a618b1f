"""The ranges in which images can be given: what other datasets give and pretrained networks take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline.networks.vgg16 import IMAGENET_DEVIATION, IMAGENET_MEAN
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.pixels import encode_images

# What `to_value_range` takes.
ValueRange = str | Sequence[float] | Sequence[Sequence[float]]
NAMED = {"imagenet": (IMAGENET_MEAN, IMAGENET_DEVIATION)}


def _numbers(values: Any, count: int) -> list[float]:
    """Return so many finite numbers; raises ValueError or TypeError for anything else."""
    numbers = [float(value) for value in values]
    if isinstance(values, str) or len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(values)
    return numbers


def _is_bytes(value_range: Any) -> bool:
    return isinstance(value_range, str) and value_range == "uint8"


def _scale_and_shift(value_range: Any) -> tuple[Tensor, Tensor]:
    """Return scale and shift; raises KeyError, ValueError, TypeError or ZeroDivisionError for what is no range."""
    first, second = NAMED[value_range] if isinstance(value_range, str) else value_range
    if isinstance(first, (int, float)):
        lowest, highest = _numbers((first, second), 2)
        scale, shift = [(highest - lowest) / 2], [(highest + lowest) / 2]
    else:
        mean, deviation = _numbers(first, 3), _numbers(second, 3)
        scale = [0.5 / value for value in deviation]
        shift = [(0.5 - centre) / value for centre, value in zip(mean, deviation, strict=True)]
    if min(scale) <= 0:
        raise ValueError(value_range)
    return torch.tensor(scale).view(-1, 1, 1), torch.tensor(shift).view(-1, 1, 1)


def check_value_range(value_range: ValueRange) -> tuple[Tensor, Tensor]:
    """Return what images [3, H, W] in [-1, 1] are multiplied with and added to for a value range; 1 and 0 for bytes.

    Raises:
        SettingError: Naming the possible ones.
    """
    try:
        return _scale_and_shift((-1, 1) if _is_bytes(value_range) else value_range)
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        expected = "(lowest, highest), 'uint8', 'imagenet', or (mean, deviation) of three channels"
        remedy = "Give what the network takes: (-1, 1), (0, 1), 'uint8', 'imagenet', or its own mean and deviation."
        raise SettingError("value_range", expected, repr(value_range), remedy) from error


def to_value_range(images: Tensor, value_range: ValueRange) -> Tensor:
    """Return images in another value range.

    Args:
        images: [..., 3, H, W] in [-1, 1].
        value_range: `(lowest, highest)`, such as (0, 1); `"uint8"`, whole numbers from 0 to 255; `"imagenet"`, what
            networks trained on ImageNet take; or `(mean, deviation)` of the three channels in [0, 1], what another
            pretrained network takes.

    Raises:
        SettingError: If it is none of these.
    """
    if _is_bytes(value_range):
        return torch.from_numpy(encode_images("texture", images)).to(images.device)
    scale, shift = check_value_range(value_range)
    if scale.eq(1).all() and shift.eq(0).all():
        return images
    return images * scale.to(images) + shift.to(images)
