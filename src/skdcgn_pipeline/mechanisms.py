"""The three mechanisms of a counterfactual generative network and how they are composed.

A mechanism is `shape`, `texture` or `background`; its image is the mask `m`, the foreground `f`
and the background `b`. They compose as `x = m * f + (1 - m) * b` (CGN, arXiv 2101.06046, eq. 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from skdcgn_pipeline.kernels.taking import gather_shifted, take_decoded
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
    gets_gradient = torch.is_grad_enabled() and images.requires_grad
    if images.device.type != "cpu" or images.dtype != torch.float32 or gets_gradient:
        return gather_shifted(images, offsets)
    within = offsets.long() % torch.tensor(images.shape[2:])
    return take_decoded(images, torch.arange(len(images)), 1, 0, within)


def check_images(images: MechanismImages, num_images: int, image_size: int) -> None:
    """Refuse images that break the generator's contract.

    Raises:
        SettingError: If a shape, type or range is wrong, or a value is not finite.
    """
    remedy = "Make the teacher's `render` return MechanismImages before the patch shift."
    for mechanism in MECHANISMS:
        name = IMAGE_OF_MECHANISM[mechanism]
        image = getattr(images, name, None)
        expected_shape = (num_images, CHANNELS_OF_MECHANISM[mechanism], image_size, image_size)
        lowest = 0.0 if mechanism == "shape" else -1.0
        if not isinstance(image, Tensor) or tuple(image.shape) != expected_shape:
            got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise SettingError(f"teacher {name}", f"a tensor of shape {expected_shape}", got, remedy)
        if not image.is_floating_point():
            raise SettingError(f"teacher {name}", "floating point values", image.dtype, remedy)
        if not torch.isfinite(image).all():
            raise SettingError(f"teacher {name}", "finite values", "NaN or infinity", remedy)
        if image.min() < lowest - 1e-3 or image.max() > 1 + 1e-3:
            got = f"values in [{image.min().item():.3g}, {image.max().item():.3g}]"
            raise SettingError(f"teacher {name}", f"values in [{lowest:g}, 1]", got, remedy)
