"""The three mechanisms of a counterfactual generative network and how they are composed.

A mechanism is `shape`, `texture` or `background`; its image is the mask `m`, the foreground `f`
and the background `b`. They compose as `x = m * f + (1 - m) * b` (CGN, arXiv 2101.06046, eq. 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.kernels.taking import take_decoded
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.vocabulary import CHANNELS_OF_MECHANISM, IMAGE_OF_MECHANISM, MECHANISMS


@dataclass(frozen=True)
class MechanismLabels:
    """One class per mechanism and image: three integer tensors [N]."""

    shape: Tensor
    texture: Tensor
    background: Tensor

    @classmethod
    def of(cls, labels: LabelsLike) -> MechanismLabels:
        """Accept [N] (the same class for every mechanism), [N, 3], a mapping or `MechanismLabels`.

        Raises:
            SettingError: If the labels have another form.
        """
        if isinstance(labels, MechanismLabels):
            return labels
        if isinstance(labels, Mapping):
            if set(labels) != set(MECHANISMS):
                raise SettingError(
                    "labels", f"the keys {', '.join(MECHANISMS)}", sorted(labels), "Give one tensor per mechanism."
                )
            return cls(**labels)
        if labels.ndim == 1:
            return cls(labels, labels, labels)
        if labels.ndim == 2 and labels.shape[1] == len(MECHANISMS):
            return cls(*labels.unbind(1))
        raise SettingError(
            "labels",
            "an integer tensor [N] or [N, 3], or one tensor per mechanism",
            f"shape {list(labels.shape)}",
            "Give one class per image, or one per mechanism in the order shape, texture, background.",
        )


LabelsLike = Tensor | Mapping[str, Tensor] | MechanismLabels


@dataclass(frozen=True)
class MechanismImages:
    """The images of the three mechanisms, before the patch shift.

    Attributes:
        mask: [N, 1, H, W] in [0, 1].
        foreground: [N, 3, H, W] in [-1, 1].
        background: [N, 3, H, W] in [-1, 1].
    """

    mask: Tensor
    foreground: Tensor
    background: Tensor

    def __len__(self) -> int:
        return self.mask.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> MechanismImages:
        return MechanismImages(self.mask[rows], self.foreground[rows], self.background[rows])

    def of(self, mechanism: str) -> Tensor:
        """Return the image of one mechanism."""
        return getattr(self, IMAGE_OF_MECHANISM[mechanism])

    def to(self, device: torch.device | str) -> MechanismImages:
        """Return the same images on another device."""
        return MechanismImages(self.mask.to(device), self.foreground.to(device), self.background.to(device))


@runtime_checkable
class CounterfactualGenerator(Protocol):
    """What a teacher and a student have in common; all that the project ever asks of a teacher.

    Attributes:
        noise_dim: Length of a noise vector; noise is drawn from N(0, I).
        num_classes: Classes 0 .. num_classes - 1.
        image_size: Height and width of the images, in pixels.
    """

    noise_dim: int
    num_classes: int
    image_size: int

    def render(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        """Render the three mechanisms for noise [N, noise_dim] and labels (see `MechanismLabels.of`)."""
        ...


def compose(
    images: MechanismImages,
    foreground_offset: Tensor | None = None,
    background_offset: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Compose the three mechanisms: `mask * foreground + (1 - mask) * background`.

    Args:
        images: The mechanisms' images, floating point.
        foreground_offset: Optional circular patch shift of the foreground, integers [N, 2] as
            (rows, columns), see `shift_patches`.
        background_offset: The same for the background.
        out: Where to write the composites; None makes room.

    Returns:
        The composites [N, 3, H, W] in [-1, 1].

    Raises:
        SettingError: If the shapes do not fit together.
    """
    mask, foreground, background = images.mask, images.foreground, images.background
    fits = mask.shape[1] == 1 and foreground.shape == background.shape and mask.shape[::2] == foreground.shape[::2]
    if not fits or mask.shape[3] != foreground.shape[3]:
        raise SettingError(
            "images",
            "mask [N, 1, H, W] with foreground and background [N, 3, H, W]",
            f"{list(mask.shape)}, {list(foreground.shape)}, {list(background.shape)}",
            "Give the images as `render` returns them.",
        )
    if foreground_offset is not None:
        foreground = shift_patches(foreground, foreground_offset)
    if background_offset is not None:
        background = shift_patches(background, background_offset)
    # lerp is b + m * (f - b): the same composition in one pass over memory.
    return torch.lerp(background, foreground, mask.to(foreground.dtype), out=out)


def shift_patches(images: Tensor, offsets: Tensor) -> Tensor:
    """Cut a window out of each image tiled 2 x 2: a circular shift.

    Output pixel (r, c) is input pixel ((r + rows) mod H, (c + columns) mod W), so an offset of H
    is the same as 0.

    Args:
        images: [N, C, H, W], any type.
        offsets: Integers [N, 2] as (rows, columns), each in 0 .. H.

    Returns:
        [N, C, H, W], the same type.
    """
    if images.stride()[2:] == (0, 0):  # flat images
        return images
    num_images, channels, height, width = images.shape
    gets_gradient = torch.is_grad_enabled() and images.requires_grad
    if images.device.type == "cpu" and images.dtype == torch.float32 and not gets_gradient:
        within = offsets.long() % torch.tensor([height, width])
        return take_decoded(images, torch.arange(num_images), 1, 0, within)
    rows = (torch.arange(height, device=images.device) + offsets[:, :1]) % height  # [N, H]
    columns = (torch.arange(width, device=images.device) + offsets[:, 1:]) % width  # [N, W]
    index = (rows[:, :, None] * width + columns[:, None, :]).view(num_images, 1, height * width)
    flat = images.reshape(num_images, channels, height * width)
    return flat.gather(2, index.expand(-1, channels, -1)).view_as(images)


# --- transformations of one mechanism -------------------------------------------------------------
# Each takes images [N, C, H, W] in `value_range`, a strength and a CPU generator (or one per image), and
# returns images of the same shape and range.

Randomness = torch.Generator | Sequence[torch.Generator]


def _drawn(draw: Callable[..., Tensor], shape: Sequence[int], generator: Randomness, along: int = 0) -> Tensor:
    """Draw numbers of a shape; of several generators, each draws one entry of the dimension `along`."""
    if isinstance(generator, torch.Generator):
        return draw(*shape, generator=generator)
    own_shape = [1 if dimension == along else size for dimension, size in enumerate(shape)]
    return torch.cat([draw(*own_shape, generator=own) for own in generator], along)


def _identity(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    return images


def _gaussian_noise(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    noise = _drawn(torch.randn, images.shape, generator).to(images)
    return (images + strength * noise).clamp(*value_range)


def _opacity(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    return images * strength


def _fade(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    draws = _drawn(torch.rand, (2, len(images), 1, 1, 1), generator, along=1).to(images)
    # A square: half of the faded masks keep less than a quarter of their opacity.
    return torch.where(draws[0] < strength, images * draws[1] ** 2, images)


def _blur(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
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
    return colours if strength == 1 else torch.lerp(images, colours, strength)


def _binarise(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    return (images > strength).to(images.dtype)


def _grey(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return torch.lerp(images, (images * luma).sum(1, keepdim=True).expand_as(images), strength)


def _warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample masks [N, 1, H, W] by affine maps [N, 2, 3] in normalised coordinates, zero outside."""
    number, _, height, width = images.shape
    a, b, c, d, e, f = matrices.to(images).view(number, 6, 1, 1).unbind(1)
    lines, columns = _pixel_centres(height).to(images)[:, None], _pixel_centres(width).to(images)
    # The grid of `torch.nn.functional.affine_grid`, which asks for as many small matrix products as there are masks.
    grid = torch.empty(number, height, width, 2, dtype=images.dtype, device=images.device)
    for side, (own_columns, own_lines, own_shift) in enumerate([(a, b, c), (d, e, f)]):
        torch.add(own_columns * columns + own_lines * lines, own_shift, out=grid[..., side])
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _pixel_centres(size: int) -> Tensor:
    """Return the normalised coordinates of pixels along a side."""
    return torch.linspace(-1, 1, size) * (size - 1) / size


def _rotation(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    angle = (_drawn(torch.rand, (len(images),), generator) * 2 - 1) * torch.pi * strength / 180
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros(len(images))
    rows = torch.stack([cosine, -sine, zero, sine, cosine, zero], 1)
    return _warp(images, rows.view(-1, 2, 3))


# Standard deviations of the random affine map at strength 1.
AFFINE_ROTATION_SD = 0.12  # radians
AFFINE_SCALE_SD = 0.08
AFFINE_SHEAR_SD = 0.1
AFFINE_SHIFT_SD = 0.05  # of half the image size


def _affine(images: Tensor, strength: float, generator: Randomness, value_range: tuple[float, float]) -> Tensor:
    draws = _drawn(torch.randn, (len(images), 5), generator) * strength
    angle = draws[:, 0] * AFFINE_ROTATION_SD
    scale = 1 + draws[:, 1] * AFFINE_SCALE_SD
    shear = draws[:, 2] * AFFINE_SHEAR_SD
    shift = draws[:, 3:] * AFFINE_SHIFT_SD
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    rows = torch.stack(
        [cosine, -sine + shear * cosine, shift[:, 0], sine, cosine + shear * sine, shift[:, 1]],
        1,
    )
    return _warp(images, rows.view(-1, 2, 3))


TransformationFunction = Callable[[Tensor, float, Randomness, tuple[float, float]], Tensor]


# The kinds, what they apply to and their ranges are in `vocabulary.TRANSFORMATION_KINDS`.
TRANSFORMATIONS: dict[str, TransformationFunction] = {
    "identity": _identity,
    "gaussian_noise": _gaussian_noise,
    "blur": _blur,
    "opacity": _opacity,
    "fade": _fade,
    "rotation": _rotation,
    "affine": _affine,
    "binarise": _binarise,
    "grey": _grey,
    "flatten": _flatten,
}


def transform_mechanism(
    images: Tensor, mechanism: str, transformations: Sequence[tuple[str, float]], generator: Randomness
) -> Tensor:
    """Apply transformations to the images of one mechanism, in order.

    Args:
        images: [N, 1, H, W] in [0, 1] for shape, [N, 3, H, W] in [-1, 1] otherwise.
        mechanism: Whose images these are.
        transformations: (kind, strength) pairs, see `TRANSFORMATIONS`.
        generator: CPU generator for what is random, or one per image: then no image depends on the others.

    Returns:
        Images of the same shape and range.
    """
    value_range = (0.0, 1.0) if mechanism == "shape" else (-1.0, 1.0)
    for kind, strength in transformations:
        images = TRANSFORMATIONS[kind](images, strength, generator, value_range)
    return images


def check_images(images: MechanismImages, num_images: int, image_size: int, owner: str = "teacher") -> None:
    """Refuse images that break the generator's contract.

    Raises:
        SettingError: If a shape, type or range is wrong, or a value is not finite.
    """
    remedy = f"Make the {owner}'s `render` return MechanismImages before the patch shift."
    for mechanism in MECHANISMS:
        name = IMAGE_OF_MECHANISM[mechanism]
        image = getattr(images, name, None)
        expected_shape = (num_images, CHANNELS_OF_MECHANISM[mechanism], image_size, image_size)
        lowest = 0.0 if mechanism == "shape" else -1.0
        if not isinstance(image, Tensor) or tuple(image.shape) != expected_shape:
            got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise SettingError(f"{owner} {name}", f"a tensor of shape {expected_shape}", got, remedy)
        if not image.is_floating_point():
            raise SettingError(f"{owner} {name}", "floating point values", image.dtype, remedy)
        if not torch.isfinite(image).all():
            raise SettingError(f"{owner} {name}", "finite values", "NaN or infinity", remedy)
        if image.min() < lowest - 1e-3 or image.max() > 1 + 1e-3:
            got = f"values in [{image.min().item():.3g}, {image.max().item():.3g}]"
            raise SettingError(f"{owner} {name}", f"values in [{lowest:g}, 1]", got, remedy)
