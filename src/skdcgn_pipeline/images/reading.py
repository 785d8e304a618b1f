"""The one reader of pictures: files of real life as RGB, resized and cropped."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from skdcgn_pipeline.runtime.errors import SettingError

# What Pillow raises for one broken file or another.
PICTURE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    ArithmeticError,
    LookupError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)
DEEPEST_GREY = 2**16 - 1

# Random crops as torchvision's RandomResizedCrop draws them: share of the area, and width over height.
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10

PictureT = TypeVar("PictureT", Image.Image, Tensor)


def open_rgb(path: Path | str) -> Image.Image:
    """Read a file as RGB, upright; of an animation the first picture, on white where it is transparent.

    Raises:
        Exception: One of `PICTURE_ERRORS` for a file that is no picture, broken, or of pixels that are no colours.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise OSError("no regular file")  # reading a pipe would wait for ever
    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        values = np.asarray(upright)
        if values.min(initial=0) < 0 or values.max(initial=0) > DEEPEST_GREY:
            raise ValueError("grey levels beyond 16 bit")
        upright = Image.fromarray((values / 257).round().astype(np.uint8))
    if upright.mode == "F":
        raise ValueError("pixels of mode F")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        ground = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(ground, upright)
    return upright.convert("RGB")


def describe_fault(error: Exception, path: Path) -> str:
    """Say in a few words why a file cannot be read."""
    return " ".join(f"{type(error).__name__}: {error}".replace(str(path), path.name).split())[:200]


def read_picture(path: Path | str, mode: str = "RGB") -> Image.Image:
    """Read a picture of mode `RGB` or `L`, see `open_rgb` and `open_mask`; a `SettingError` names a broken file."""
    try:
        return open_mask(path) if mode == "L" else open_rgb(path)
    except PICTURE_ERRORS as error:
        fault = describe_fault(error, Path(path))
        raise SettingError(str(path), "a readable picture", fault, "Replace it or leave it out.") from error


def open_mask(path: Path | str) -> Image.Image:
    """Read a mask, white on black; of an array [H, W] (`.npy`), what is not 0 is white. Raises as `open_rgb`."""
    if Path(path).suffix != ".npy":
        return as_mask(open_rgb(path))
    mask = np.asarray(np.load(path, allow_pickle=False))
    if mask.ndim != 2:
        raise ValueError(f"an array of shape {list(mask.shape)}, not of height and width")
    return Image.fromarray((mask != 0).astype(np.uint8) * 255)


def as_mask(picture: Image.Image) -> Image.Image:
    """Return a picture as a mask, white on black, also of one that has only 0 and 1."""
    mask = picture.convert("L")
    return mask.point(lambda value: 255 * value) if mask.getextrema()[1] == 1 else mask


def crop_centre(picture: PictureT, image_size: int, resize: int | None = None) -> PictureT:
    """Return the middle, as torchvision's `Resize(resize)` and `CenterCrop(image_size)`.

    Args:
        picture: A picture, or floating point images [..., H, W].
        image_size: Height and width of the result.
        resize: The shorter side before cropping, at least `image_size`; None takes `image_size`.
    """
    from torchvision.transforms import functional  # slow to import

    resized = functional.resize(picture, [resize or image_size], antialias=True)
    return functional.center_crop(resized, [image_size, image_size])


def draw_crop(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a random part of an image, as torchvision's `RandomResizedCrop`: 8 to 100 % of its area.

    Torchvision draws from torch's global generator, which threads share.

    Returns:
        Top, left, height, width.
    """
    lowest, highest = CROP_RATIO
    for _ in range(CROP_ATTEMPTS):
        area = height * width * generator.uniform(*CROP_AREA)
        ratio = math.exp(generator.uniform(math.log(lowest), math.log(highest)))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.integers(height - crop_height + 1))
            return top, int(generator.integers(width - crop_width + 1)), crop_height, crop_width
    # An image of an extreme shape: its middle, as wide or as high as ratios allow.
    crop_width = max(1, min(width, round(height * highest)))
    crop_height = max(1, min(height, round(width / lowest)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def crop_randomly(picture: PictureT, image_size: int, generator: np.random.Generator) -> PictureT:
    """Return a random part of a picture or image [C, H, W], resized and perhaps mirrored, to train on."""
    from torchvision.transforms import functional  # slow to import

    width, height = picture.size if isinstance(picture, Image.Image) else picture.shape[:-3:-1]
    part = functional.resized_crop(picture, *draw_crop(height, width, generator), [image_size, image_size])
    return functional.hflip(part) if generator.random() < 0.5 else part


def to_bytes(picture: Image.Image) -> Tensor:
    """Return an RGB picture as uint8 [3, H, W], or a grey one as [1, H, W]."""
    pixels = torch.from_numpy(np.array(picture))
    return pixels.reshape(*pixels.shape[:2], -1).permute(2, 0, 1).contiguous()


def read_pictures(paths: list[Path], image_size: int) -> Tensor:
    """Read the middle of pictures, their shorter side brought to `image_size`: uint8 [N, 3, S, S]."""
    return torch.stack([to_bytes(crop_centre(read_picture(path), image_size)) for path in paths])
