"""The three bias protocols (CGN, arXiv 2101.06046, section 4.1): functions from grey shapes to coloured ones.

On the training split the colour or texture gives the class away, of all images or of most; on a test split it is
drawn uniformly and independently of the shape, and of the other colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skdcgn_pipeline.images.assets import DEFAULT_ASSETS, names_below, require_assets
from skdcgn_pipeline.images.grey import IMAGE_SIZE, GreyImages
from skdcgn_pipeline.images.image_set import ImagesInMemory, Split
from skdcgn_pipeline.parameters.images import BIASES
from skdcgn_pipeline.runtime.errors import check_choice

# Class means of the digit colours of `colored`, RGB 0-255.
COLORED_MEANS = (
    (220, 20, 60),
    (0, 128, 128),
    (253, 233, 16),
    (0, 149, 182),
    (237, 145, 33),
    (145, 30, 188),
    (70, 240, 240),
    (250, 197, 187),
    (210, 245, 60),
    (128, 0, 0),
)
COLORED_VARIANCE = 0.02  # of each channel, in [0, 1]

# Background colours of `double_colored` by class: darkgreen, darkblue, #b03060, orangered, yellow,
# burlywood, lime, aqua, fuchsia, #6495ed (CSS values).
DOUBLE_COLORED_BACKGROUNDS = (
    (0, 100, 0),
    (0, 0, 139),
    (176, 48, 96),
    (255, 69, 0),
    (255, 255, 0),
    (222, 184, 135),
    (0, 255, 0),
    (0, 255, 255),
    (255, 0, 255),
    (100, 149, 237),
)
OBJECT_COLOUR_SHIFT = 6  # the object colour of class i is the background colour of class i - 6
DOUBLE_COLORED_SD = 0.01

NUM_COLOURS = len(DOUBLE_COLORED_BACKGROUNDS)
TEXTURE_SIZE = 150
TEXTURE_PADDING = 3


def to_bytes(images01: Tensor) -> Tensor:
    """Quantise images in [0, 1] to uint8 of the fixed range 0 .. 255."""
    return images01.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def _flat(colours: tuple[tuple[int, int, int], ...]) -> Tensor:
    return torch.tensor(colours, dtype=torch.float32) / 255


def apply_bias(
    grey: GreyImages,
    variant: str,
    *,
    bias_share: float | None,
    generator: np.random.Generator,
    binarise_threshold: float = 0.1,
    assets: Path | str = DEFAULT_ASSETS,
) -> Split:
    """Put grey shapes through a bias protocol.

    Args:
        grey: The shapes of one split.
        variant: A name in `parameters.images.BIASES`.
        bias_share: Share of the images whose colours or textures follow their class (training); all others have those
            of other classes. None draws them independently of the class (test).
        generator: Source of every random choice.
        binarise_threshold: A pixel above it belongs to the shape (double_colored, wildlife).
        assets: The asset folder; only wildlife needs its textures.

    Returns:
        The coloured shapes, in the same order, as a split `test`. `foreground_index` is the class whose colour or
        texture a shape has, `background_index` the same for the background, -1 where it is always black;
        `collision`, whether it has the background's colour and is nearly invisible; `group`, see `group_names`.
        Masks are the pixels above the threshold.

    Raises:
        SettingError: If the variant is unknown or its textures are absent.
    """
    check_choice("variant", variant, BIASES)
    num_images, labels = len(grey), grey.labels
    foreground, background = _draw_colours(labels, bias_share, generator)
    collision = torch.zeros(num_images, dtype=torch.bool)
    mask = (grey.images > binarise_threshold)[:, None]  # [N, 1, H, W]
    if variant == "colored":
        noise = torch.from_numpy(generator.standard_normal((num_images, 3), np.float32)) * COLORED_VARIANCE**0.5
        colour = (_flat(COLORED_MEANS)[foreground] + noise).clamp_(0, 1)
        images, background = to_bytes(grey.images[:, None] * colour[:, :, None, None]), torch.full_like(labels, -1)
    elif variant == "double_colored":
        palette = _flat(DOUBLE_COLORED_BACKGROUNDS)
        noise = torch.from_numpy(generator.standard_normal((2, num_images, 3), np.float32)) * DOUBLE_COLORED_SD
        object_index = (foreground - OBJECT_COLOUR_SHIFT) % NUM_COLOURS
        collision = object_index == background
        colours = (to_bytes(palette[object_index] + noise[0]), to_bytes(palette[background] + noise[1]))
        ink, paper = (colour[:, :, None, None] for colour in colours)
        images = torch.where(mask, ink, paper)
    else:
        parts = {"object": foreground, "background": background}
        ink, paper = (
            _crop_textures(read_textures(Path(assets), part), i.numpy(), generator) for part, i in parts.items()
        )
        images = torch.where(mask, ink, paper)
    conflicting = (foreground != labels) & (background != labels)
    attributes = {
        "foreground_index": foreground,
        "background_index": background,
        "collision": collision.long(),
        "group": 2 * labels + conflicting,
    }
    masks = ImagesInMemory(mask.to(torch.uint8) * 255)
    return Split("test", "test", ImagesInMemory(images), labels, attributes, masks=masks)


def _draw_colours(labels: Tensor, bias_share: float | None, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw the classes [N] whose colour or texture the shapes have, and those of their backgrounds."""
    if bias_share is None:
        drawn = [torch.from_numpy(generator.integers(0, NUM_COLOURS, len(labels))) for _ in range(2)]
        return drawn[0], drawn[1]
    foreground, background = labels.clone(), labels.clone()
    if num_conflicting := len(labels) - round(bias_share * len(labels)):
        rows = torch.from_numpy(generator.permutation(len(labels))[:num_conflicting])
        for colours in (foreground, background):
            others = torch.from_numpy(generator.integers(1, NUM_COLOURS, num_conflicting))
            colours[rows] = (labels[rows] + others) % NUM_COLOURS
    return foreground, background


def group_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the groups, for the worst one: by class, with a colour of it, and with others' alone.

    Of test images, one in ten (`colored`) or one in five has a colour or texture of its class. Those of which only
    one of the two is count with them: images with both would be too few of each class to measure anything.
    """
    return tuple(f"{name}, bias-{kind}" for name in class_names for kind in ("aligned", "conflicting"))


def read_textures(assets: Path, part: str) -> np.ndarray:
    """Read the ten textures of `object` or `background`.

    Returns:
        [10, 3, 156, 156] uint8: resized to 150 x 150 (nearest), padded by 3 (reflect).

    Raises:
        SettingError: If a file is absent.
    """
    paths = require_assets(assets, names_below(f"textures/{part}"))
    textures = np.empty((NUM_COLOURS, TEXTURE_SIZE, TEXTURE_SIZE, 3), np.uint8)
    for path in paths:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.NEAREST)
            textures[int(path.name[0])] = np.asarray(resized)
    padding = (0, 0), (TEXTURE_PADDING, TEXTURE_PADDING), (TEXTURE_PADDING, TEXTURE_PADDING), (0, 0)
    return np.ascontiguousarray(np.pad(textures, padding, mode="reflect").transpose(0, 3, 1, 2))


def _crop_textures(textures: np.ndarray, index: np.ndarray, generator: np.random.Generator) -> Tensor:
    """Cut one random 32 x 32 window per image out of the texture of its class, all at once."""
    windows = np.lib.stride_tricks.sliding_window_view(textures, (IMAGE_SIZE, IMAGE_SIZE), axis=(2, 3))
    last = windows.shape[2]
    rows, columns = generator.integers(0, last, (2, len(index)))
    return torch.from_numpy(windows[index, :, rows, columns])
