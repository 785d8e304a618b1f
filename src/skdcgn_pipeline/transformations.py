"""Every transformation of a mechanism's images: name, mechanisms, range, unit and function in one table.

A new one is a function and a line of `TRANSFORMATIONS`; it is then a parameter of `compose` and of the ablation.
Torch is imported when a function runs: settings are checked against the table without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.runtime.extensions import is_extension, resolve
from skdcgn_pipeline.vocabulary import MECHANISMS

if TYPE_CHECKING:
    from torch import Generator, Tensor

    # One generator, or one per image: then no image depends on the others.
    Randomness = Generator | Sequence[Generator]

# What the function of a transformation is called with.
TAKEN = ("images", "strength", "generator", "value_range")

# Standard deviations of the random affine map at strength 1.
AFFINE_ROTATION_SD = 0.12  # radians
AFFINE_SCALE_SD = 0.08
AFFINE_SHEAR_SD = 0.1
AFFINE_SHIFT_SD = 0.05  # of half the image size


@dataclass(frozen=True)
class Transformation:
    """What is done to the images of a mechanism, where it makes sense and what its strength means.

    Attributes:
        function: (images [N, C, H, W], strength, CPU generator or one per image, value range) -> images of the same
            shape and range.
        mechanisms: The mechanisms it may be applied to.
        lowest: Smallest strength allowed.
        highest: Largest strength allowed.
        unit: What the strength means.
    """

    function: Callable[[Tensor, float, Randomness, tuple[float, float]], Tensor]
    mechanisms: tuple[str, ...]
    lowest: float
    highest: float
    unit: str


def transform_mechanism(
    images: Tensor, mechanism: str, transformations: Sequence[tuple[str, float]], generator: Randomness
) -> Tensor:
    """Apply transformations to the images of one mechanism, in order.

    Args:
        images: [N, 1, H, W] in [0, 1] for shape, [N, 3, H, W] in [-1, 1] otherwise.
        mechanism: Whose images these are.
        transformations: (kind, strength) pairs, see `TRANSFORMATIONS`; a kind may be `module:function`.
        generator: CPU generator for what is random, or one per image: then no image depends on the others.

    Returns:
        Images of the same shape and range.
    """
    value_range = (0.0, 1.0) if mechanism == "shape" else (-1.0, 1.0)
    for kind, strength in transformations:
        known = TRANSFORMATIONS.get(kind)
        function = known.function if known else resolve("transformations.kind", kind, *TAKEN)
        images = function(images, strength, generator, value_range)
    return images


def check_transformation(setting: str, mechanism: str, kind: str, strength: float) -> None:
    """Refuse a transformation that is unknown, does not fit the mechanism or is out of range.

    Of code of the user's own, `module:function`, nothing is known; it is imported when a run starts.

    Raises:
        SettingError: Naming the setting, the valid values and what came.
    """
    if is_extension(kind):
        return
    known = TRANSFORMATIONS[check_choice(f"{setting}.kind", kind, TRANSFORMATIONS)]
    if mechanism not in known.mechanisms:
        fitting = ", ".join(name for name, other in TRANSFORMATIONS.items() if mechanism in other.mechanisms)
        raise SettingError(
            f"{setting}.kind",
            f"a transformation that makes sense for {mechanism} ({fitting})",
            f"'{kind}', which is for {' and '.join(known.mechanisms)}",
            f"Choose one of these, or give '{kind}' to {' or '.join(known.mechanisms)}.",
        )
    if not known.lowest <= strength <= known.highest:
        raise SettingError(
            f"{setting}.strength",
            f"a number in [{known.lowest}, {known.highest}] ({known.unit})",
            strength,
            f"Choose a strength that '{kind}' can apply.",
        )


def _drawn(distribution: str, shape: Sequence[int], generator: Randomness, along: int = 0) -> Tensor:
    """Draw numbers of a shape by `torch.rand` or `randn`; of several generators, each draws one entry of `along`."""
    import torch

    draw: Any = getattr(torch, distribution)
    if isinstance(generator, torch.Generator):
        return draw(*shape, generator=generator)
    shape_of_each = [1 if dimension == along else size for dimension, size in enumerate(shape)]
    return torch.cat([draw(*shape_of_each, generator=each) for each in generator], along)


def _identity(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    return images


def _gaussian_noise(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    noise = _drawn("randn", images.shape, generator).to(images)
    return (images + strength * noise).clamp(*value_range)


def _opacity(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    return images * strength


def _fade(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    is_faded, opacity = _drawn("rand", (2, len(images), 1, 1, 1), generator, along=1).to(images)
    # A square: half of the faded masks keep less than a quarter of their opacity.
    return (images * opacity**2).where(is_faded < strength, images)


def _blur(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    import torch
    from torch.nn import functional as F

    radius = min(math.ceil(3 * strength), max(images.shape[2:]) - 1)
    if radius == 0:
        return images
    distance = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (distance / strength) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    # Outside of a mask is nothing; textures and backgrounds go on as in a mirror.
    mode = "constant" if value_range[0] == 0 else "reflect"
    for _ in range(2):  # along the columns, then along the rows
        padded = F.pad(images, (radius, radius, 0, 0), mode)
        images = F.conv2d(padded, kernel, groups=images.shape[1]).transpose(2, 3)
    return images.clamp(*value_range)


def _flatten(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    colours = images.mean((2, 3), keepdim=True).expand_as(images)
    # At full strength the pixels of an image are one number in memory: nothing is written, nothing to shift.
    return colours if strength == 1 else images.lerp(colours, strength)


def _binarise(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    return (images > strength).to(images.dtype)


def _grey(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    luma = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return images.lerp((images * luma).sum(1, keepdim=True).expand_as(images), strength)


def _rotation(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    angle = (_drawn("rand", (len(images),), generator) * 2 - 1) * math.pi * strength / 180
    cosine, sine = angle.cos(), angle.sin()
    zero = angle.new_zeros(len(images))
    return _warp(images, (cosine, -sine, zero, sine, cosine, zero))


def _affine(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    draws = _drawn("randn", (len(images), 5), generator) * strength
    angle = draws[:, 0] * AFFINE_ROTATION_SD
    scale = 1 + draws[:, 1] * AFFINE_SCALE_SD
    shear = draws[:, 2] * AFFINE_SHEAR_SD
    shift = draws[:, 3:] * AFFINE_SHIFT_SD
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    return _warp(images, (cosine, -sine + shear * cosine, shift[:, 0], sine, cosine + shear * sine, shift[:, 1]))


def _warp(images: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    """Resample masks [N, 1, H, W] by affine maps in normalised coordinates, zero outside.

    Args:
        images: The masks, square.
        coefficients: a, b, c, d, e, f, each [N]: (x, y) is read at (a x + b y + c, d x + e y + f).
    """
    import torch
    from torch.nn import functional as F

    number, _, height, width = images.shape
    a, b, c, d, e, f = (coefficient.to(images).view(number, 1, 1) for coefficient in coefficients)
    centres = (torch.linspace(-1, 1, height) * (height - 1) / height).to(images)
    # The grid of `torch.nn.functional.affine_grid`, which asks for as many small matrix products as there are masks.
    grid = images.new_empty(number, height, width, 2)
    torch.add(a * centres + b * centres[:, None], c, out=grid[..., 0])
    torch.add(d * centres + e * centres[:, None], f, out=grid[..., 1])
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


_SHAPE, _COLOURS = ("shape",), ("texture", "background")
TRANSFORMATIONS = {
    "identity": Transformation(_identity, MECHANISMS, 0, 1, "ignored"),
    "gaussian_noise": Transformation(_gaussian_noise, MECHANISMS, 0, 2, "standard deviation, clamped to the range"),
    "blur": Transformation(_blur, MECHANISMS, 0, 16, "standard deviation of a Gaussian, in pixels"),
    "opacity": Transformation(_opacity, _SHAPE, 0, 1, "factor on the mask"),
    "fade": Transformation(_fade, _SHAPE, 0, 1, "share of the masks whose opacity is drawn at random"),
    "rotation": Transformation(_rotation, _SHAPE, 0, 180, "largest angle in degrees, drawn uniformly"),
    "affine": Transformation(_affine, _SHAPE, 0, 5, "multiple of the reference standard deviations"),
    "binarise": Transformation(_binarise, _SHAPE, 0, 1, "threshold on the mask"),
    "grey": Transformation(_grey, _COLOURS, 0, 1, "share of grey blended in"),
    "flatten": Transformation(_flatten, _COLOURS, 0, 1, "share of the image's mean colour blended in"),
}
