"""Folders of images with a folder per class: what is in them, whether it is sound, and batches of it.

Three kinds are known: classes named by their WordNet id (ImageNet and what shares its classes: ImageNet-A,
-Sketch, stylised), the nine classes of ImageNet-9 (arXiv 2006.09994), and cue-conflict images, whose name
tells the class of shape and texture (Geirhos et al., arXiv 1811.12231).

Listing is by name alone and sorted, so that row i is the same image wherever the folder lies. A random crop
depends on (seed, epoch, row) alone, so that neither the number of threads nor a restart changes an image.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.store import build_json
from skdcgn_pipeline.images.epochs import DrawBatch, EpochSampler
from skdcgn_pipeline.runtime.errors import SettingError, check_choice, nearest
from skdcgn_pipeline.runtime.progress import Progress, stop_requested
from skdcgn_pipeline.runtime.seeding import numpy_generator
from skdcgn_pipeline.samples.pixels import from_bytes

logger = logging.getLogger(__name__)

NonRgb = Literal["refuse", "skip", "convert"]
NON_RGB = ("refuse", "skip", "convert")
# Modes that become RGB without a choice of range; 16-bit and floating-point greys do not.
CONVERTIBLE_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr"})
# What Pillow raises for one broken file or another.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    ArithmeticError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)

# Random crops as torchvision's RandomResizedCrop draws them: share of the area, and width over height.
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10

# Batches that are decoded while earlier ones are in use.
BATCHES_AHEAD = 2
IMAGES_PER_CHECK = 1000
NAMES_SHOWN = 3


# --- listing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageList:
    """Images of a folder, in the order of their names.

    Attributes:
        root: The folder.
        names: Path of each image below the folder.
        labels: [N] class of each image; [N, 2], the category of shape and texture, for cue-conflict images.
        sizes: Bytes of each file.
        skipped: Name and fault of the images that were left out.
    """

    root: Path
    names: tuple[str, ...]
    labels: Tensor
    sizes: tuple[int, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def classes(self) -> Tensor:
        """The classes that occur, ascending."""
        return self.labels.unique()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of names, sizes and labels: what artifacts made from these images are named after.

        The content is not read, which would take hours for ImageNet: an image that changes without
        changing its size goes unnoticed.
        """
        digest = hashlib.sha256()
        for name, size, label in zip(self.names, self.sizes, self.labels.tolist(), strict=True):
            digest.update(f"{name}\0{size}\0{label}\n".encode())
        return digest.hexdigest()


def _size_of(path: Path) -> int:
    """Return the bytes of a file, 0 for a broken link: reading it will tell."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def class_folders(root: Path, setting: str) -> list[Path]:
    """Return the folders in `root` in the order of their names; hidden ones do not count.

    Raises:
        SettingError: If there is no such folder, or none in it.
    """
    if not root.is_dir():
        raise SettingError(setting, "a folder with a folder per class", f"nothing at {root}", "Correct the path.")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise SettingError(setting, "images in folders, one per class", f"none in {root}", "Correct the path.")
    return folders


def _list_files(root: Path, setting: str) -> dict[str, list[tuple[str, int]]]:
    """Return the files below each folder in `root` as (name, bytes); hidden ones do not count.

    Raises:
        SettingError: If there is no such folder, or no file in any of its folders.
    """
    files: dict[str, list[tuple[str, int]]] = {}
    for folder in class_folders(root, setting):
        found = []
        for parent, folders, names in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [Path(parent) / name for name in names if not name.startswith(".")]
        files[folder.name] = sorted((path.relative_to(root).as_posix(), _size_of(path)) for path in found)
    if not any(files.values()):
        raise SettingError(setting, "images in folders, one per class", f"none in {root}", "Correct the path.")
    return files


def check_wordnet_names(
    root: Path | str, wnids: tuple[str, ...], setting: str, names: Iterable[str] | None = None
) -> None:
    """Refuse a folder with class folders that the index table does not know, without a look into them.

    Args:
        root: The folder.
        wnids: The WordNet id of each class.
        setting: What errors call the folder.
        names: Names of the class folders, where they are known.

    Raises:
        SettingError: If there is no such folder, or one in it is no class.
    """
    root = Path(root)
    found = [folder.name for folder in class_folders(root, setting)] if names is None else [*names]
    unknown = sorted(set(found) - set(wnids))
    if unknown:
        raise SettingError(
            setting,
            f"class folders named by the {len(wnids)} WordNet ids of the index table",
            f"{len(unknown)} of {len(found)} others in {root}, the first '{unknown[0]}'",
            "Remove them, or give the folder above or below.",
        )


def _list_classes(root: Path, files: Mapping[str, list[tuple[str, int]]], class_of: Mapping[str, int]) -> ImageList:
    rows = [(name, size, class_of[folder]) for folder, own in files.items() for name, size in own]
    names, sizes, labels = zip(*rows, strict=True)
    return ImageList(root, names, torch.tensor(labels), sizes)


def list_wordnet_images(
    root: Path | str, wnids: tuple[str, ...], setting: str = "image folder", complete: bool = False
) -> ImageList:
    """List a folder whose class folders are named by WordNet ids.

    Args:
        root: The folder.
        wnids: The WordNet id of each class, in class order.
        setting: What errors call the folder.
        complete: Whether every class must be there.

    Raises:
        SettingError: If the folder is empty, has a folder that is no class, or lacks a class it must have.
    """
    root = Path(root)
    files = _list_files(root, setting)
    class_of = {wnid: index for index, wnid in enumerate(wnids)}
    check_wordnet_names(root, wnids, setting, files)
    missing = [wnid for wnid in wnids if not files.get(wnid)]
    if complete and missing:
        raise SettingError(
            setting,
            f"images of all {len(wnids)} classes",
            f"none of {len(missing)} classes in {root}, the first '{missing[0]}'",
            "Complete the folder.",
        )
    return _list_classes(root, files, class_of)


def list_in9_images(root: Path | str, in9_names: tuple[str, ...], setting: str = "ImageNet-9 folder") -> ImageList:
    """List a folder of ImageNet-9, such as `mixed_same`: class folders `00_dog` to `08_fish`, or `val` with them.

    Raises:
        SettingError: If a class folder is named otherwise, or a number is out of range.
    """
    root = Path(root)
    if (root / "val").is_dir():
        root = root / "val"
    files = _list_files(root, setting)
    class_of = {}
    for folder in files:
        match = re.fullmatch(r"(\d+)_(.+)", folder)
        number = int(match[1]) if match else -1
        # The word guards against other numberings; "vehicle" is published as "wheeled vehicle".
        if not match or number >= len(in9_names) or in9_names[number] not in match[2].lower():
            known = ", ".join(f"{index:02}_{name}" for index, name in enumerate(in9_names))
            raise SettingError(setting, f"class folders {known}", f"'{folder}' in {root}", "Give an ImageNet-9 folder.")
        class_of[folder] = number
    return _list_classes(root, files, class_of)


def parse_cue_conflict_name(name: str, categories: Iterable[str], setting: str = "cue-conflict folder") -> list[int]:
    """Return the category of shape and texture that a name such as `cat7-bottle2.png` tells.

    Args:
        name: Name of a file, without folders.
        categories: The categories, in the order that indices refer to.
        setting: What errors call the folder.

    Raises:
        SettingError: If the name is of another form, or names another category.
    """
    known = list(categories)
    match = re.fullmatch(r"([a-z]+)\d+-([a-z]+)\d+\.[A-Za-z]+", name)
    if not match:
        remedy = "Remove other files, or give the folder of style-transferred images."
        raise SettingError(setting, "images named like cat7-bottle2.png (shape, texture)", repr(name), remedy)
    for category in match.groups():
        if category not in known:
            wanted = f"one of {', '.join(known)}"
            raise SettingError(setting, wanted, f"'{category}' in '{name}'", nearest(category, known))
    return [known.index(category) for category in match.groups()]


def list_cue_conflict_images(
    root: Path | str, categories: Iterable[str], setting: str = "cue-conflict folder"
) -> ImageList:
    """List cue-conflict images: a folder per category of shape with files such as `cat7-bottle2.png`.

    Raises:
        SettingError: If a name is of another form, or its shape is not that of its folder.
    """
    root = Path(root)
    known = list(categories)
    rows = []
    for folder, own in _list_files(root, setting).items():
        for name, size in own:
            label = parse_cue_conflict_name(Path(name).name, known, setting)
            if known[label[0]] != folder:
                got = f"'{name}'"
                raise SettingError(setting, "images in the folder of their shape", got, "Put it where it belongs.")
            rows.append((name, size, label))
    names, sizes, labels = zip(*rows, strict=True)
    return ImageList(root, names, torch.tensor(labels), sizes)


# --- checking ------------------------------------------------------------------------------------


def _find_fault(path: Path, expected_size: int | None) -> tuple[str, str] | None:
    """Return the kind of fault of an image file and what it is, or None for a sound one."""
    try:
        with Image.open(path) as image:
            mode, size = image.mode, image.size
            # JPEGs are read whole all the same, and decoded at an eighth of their size.
            if image.format == "JPEG":
                image.draft(mode, (1, 1))
            image.load()
    except _DECODING_ERRORS as error:
        return "unreadable", f"{type(error).__name__}: {error}".replace(str(path), path.name)[:200]
    if expected_size is not None and size != (expected_size, expected_size):
        return "size", f"{size[0]} x {size[1]}"
    if mode == "RGB":
        return None
    return ("non-RGB", mode) if mode in CONVERTIBLE_MODES else ("unreadable", f"pixels of mode {mode}")


def find_faults(
    images: ImageList, expected_size: int | None = None, num_threads: int = 8
) -> dict[str, tuple[str, str]]:
    """Read every image once and return the faulty ones.

    Args:
        images: The images.
        expected_size: Height and width that every image must have; None allows any.
        num_threads: Files read at a time.

    Returns:
        By name: the kind of fault (`unreadable`, `non-RGB`, `size`) and what it is, such as the mode of
        the pixels or the size.

    Raises:
        InterruptedRunError: If a stop was requested.
    """
    progress = Progress(f"checking {images.root.name}", len(images), "images")
    find = partial(_find_fault, expected_size=expected_size)
    faults: dict[str, tuple[str, str]] = {}
    with ThreadPoolExecutor(num_threads) as pool:
        for first in range(0, len(images), IMAGES_PER_CHECK):
            names = images.names[first : first + IMAGES_PER_CHECK]
            found = pool.map(find, [images.root / name for name in names])
            faults |= {name: fault for name, fault in zip(names, found, strict=True) if fault}
            progress.advance(len(names))
            if stop_requested() and progress.done < progress.total:
                progress.interrupt()
    progress.finish()
    return faults


def _told(faults: Mapping[str, str]) -> str:
    """Return the number of faulty files and the first of them."""
    shown = [f"{name} ({what})" for name, what in list(faults.items())[:NAMES_SHOWN]]
    return f"{len(faults)} ({', '.join(shown)}{', ...' if len(faults) > NAMES_SHOWN else ''})"


def check_images(
    images: ImageList,
    skip_unreadable: bool = False,
    non_rgb: NonRgb = "refuse",
    expected_size: int | None = None,
    num_threads: int = 8,
    store: Path | None = None,
    setting: str = "image folder",
) -> ImageList:
    """Refuse faulty images, or leave them out where the settings say so; both are counted and named.

    Args:
        images: What to check.
        skip_unreadable: Leave out files that are no image, truncated or of pixels that are no colours.
        non_rgb: What happens to grey, CMYK and other images that are not RGB: `refuse`, `skip`, or
            `convert` while reading, as torchvision does; ImageNet has both.
        expected_size: Height and width that every image must have; None where images are resized.
        num_threads: Files read at a time.
        store: Where faults are kept, so that a folder is read once; None keeps nothing.
        setting: What errors call the folder.

    Returns:
        The images that are left, with `skipped` filled.

    Raises:
        SettingError: If there are faulty images that may not be left out, or none is left.
        InterruptedRunError: If a stop was requested.
    """
    check_choice(f"{setting}.non_rgb", non_rgb, NON_RGB)

    def compute() -> dict[str, tuple[str, str]]:
        return find_faults(images, expected_size, num_threads)

    inputs = {"kind": "faults of images", "images": images.fingerprint, "expected_size": expected_size}
    faults = compute() if store is None else build_json(store, inputs, compute)
    by_kind: dict[str, dict[str, str]] = {"unreadable": {}, "non-RGB": {}, "size": {}}
    for name, (kind, what) in faults.items():
        by_kind[kind][name] = what
    where = f"of {len(images)} in {images.root}"
    if by_kind["size"]:
        raise SettingError(
            setting,
            f"images of {expected_size} x {expected_size}, as they are not resized",
            f"{_told(by_kind['size'])} {where} of other sizes",
            "Let images be resized (`resize`), or resize these.",
        )
    if by_kind["unreadable"] and not skip_unreadable:
        got = f"{_told(by_kind['unreadable'])} {where} unreadable"
        raise SettingError(setting, "readable images", got, "Replace them, or leave them out with `skip_unreadable`.")
    if by_kind["non-RGB"] and non_rgb == "refuse":
        got = f"{_told(by_kind['non-RGB'])} {where} not RGB"
        remedy = "Set `non_rgb` to 'convert', as torchvision does, or to 'skip'."
        raise SettingError(setting, "RGB images", got, remedy)
    skipped = by_kind["unreadable"] | (by_kind["non-RGB"] if non_rgb == "skip" else {})
    for kind, verb in (("unreadable", "left out"), ("non-RGB", "left out" if non_rgb == "skip" else "converted")):
        if by_kind[kind]:
            logger.warning("%s: %s images are %s: %s %s", setting, kind, verb, _told(by_kind[kind]), where)
    if not skipped:
        return images
    kept = [row for row, name in enumerate(images.names) if name not in skipped]
    if not kept:
        raise SettingError(setting, "at least one usable image", f"none {where}", "Give a sound folder.")
    return replace(
        images,
        names=tuple(images.names[row] for row in kept),
        labels=images.labels[torch.tensor(kept)],
        sizes=tuple(images.sizes[row] for row in kept),
        skipped=dict(skipped),
    )


# --- decoding ------------------------------------------------------------------------------------


def read_rgb(path: Path) -> Image.Image:
    """Read an image file as RGB; alpha is dropped.

    Raises:
        SettingError: If it cannot be read: it changed since it was checked.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except _DECODING_ERRORS as error:
        remedy = "Check the folder again, or the disk."
        raise SettingError(str(path), "a readable image", f"{type(error).__name__}: {error}", remedy) from error


def crop_centre(image: Image.Image, image_size: int, resize: int | None) -> Image.Image:
    """Return the middle of an image, as torchvision's `Resize(resize)` and `CenterCrop(image_size)`.

    Args:
        image: Any image.
        image_size: Height and width of the result.
        resize: The shorter side before cropping; None crops the image as it is.

    Raises:
        SettingError: If the image is too small for the crop.
    """
    width, height = image.size
    if resize is not None and min(width, height) != resize:
        shorter = min(width, height)
        width, height = int(resize * width / shorter), int(resize * height / shorter)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if min(width, height) < image_size:
        remedy = "Let images be resized to at least the crop (`resize`)."
        raise SettingError("resize", f"at least {image_size} x {image_size}", f"{width} x {height}", remedy)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    return image.crop((left, top, left + image_size, top + image_size))


def crop_centre_of(images: Tensor, image_size: int, resize: int | None) -> Tensor:
    """Return the middle of square images [N, C, H, W], as `crop_centre` does of an image file.

    Args:
        images: Floating point.
        image_size: Height and width of the result.
        resize: Height and width before cropping; None crops the images as they are.

    Raises:
        SettingError: If the images are too small for the crop.
    """
    if resize is not None and images.shape[-1] != resize:
        images = F.interpolate(images, (resize, resize), mode="bilinear", antialias=True)
    height, width = images.shape[-2:]
    if min(height, width) < image_size:
        remedy = "Let images be resized to at least the crop (`resize`)."
        raise SettingError("resize", f"at least {image_size} x {image_size}", f"{width} x {height}", remedy)
    top, left = (height - image_size) // 2, (width - image_size) // 2
    return images[..., top : top + image_size, left : left + image_size]


def draw_crop(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a random part of an image, as torchvision's `RandomResizedCrop`: 8 to 100 % of its area.

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
    crop_width = min(width, round(height * highest))
    crop_height = min(height, round(width / lowest))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def crop_randomly(image: Image.Image, image_size: int, generator: np.random.Generator) -> Image.Image:
    """Return a random part of an image, resized and perhaps mirrored: the usual training augmentation."""
    top, left, height, width = draw_crop(image.height, image.width, generator)
    part = image.crop((left, top, left + width, top + height))
    part = part.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else part


def to_bytes(image: Image.Image) -> Tensor:
    """Return an RGB image as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


# --- batches -------------------------------------------------------------------------------------


class FolderBatches:
    """All images of a list in order: batches of images [B, 3, S, S] in [-1, 1] and their labels.

    May be iterated many times; batches to come are decoded by threads meanwhile.

    Args:
        images: Checked images.
        image_size: S.
        resize: The shorter side before the middle is cropped; None leaves images as they are.
        batch_size: Images per batch; the last may be smaller.
        num_threads: Images decoded at a time.
    """

    def __init__(
        self,
        images: ImageList,
        image_size: int = 224,
        resize: int | None = 256,
        batch_size: int = 256,
        num_threads: int = 8,
    ) -> None:
        self.images, self.image_size, self.resize = images, image_size, resize
        self.batch_size, self.num_threads = batch_size, num_threads

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def _decode(self, name: str) -> Tensor:
        return to_bytes(crop_centre(read_rgb(self.images.root / name), self.image_size, self.resize))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches.

        Raises:
            InterruptedRunError: If a stop was requested.
        """
        progress = Progress(f"reading {self.images.root.name}", len(self.images), "images")
        starts = range(0, len(self.images), self.batch_size)
        pool = ThreadPoolExecutor(self.num_threads)
        try:
            pending: list[list[Future[Tensor]]] = []
            for number, start in enumerate(starts):
                for later in starts[number + len(pending) : number + BATCHES_AHEAD + 1]:
                    names = self.images.names[later : later + self.batch_size]
                    pending.append([pool.submit(self._decode, name) for name in names])
                batch = torch.stack([decoded.result() for decoded in pending.pop(0)])
                yield from_bytes(batch), self.images.labels[start : start + self.batch_size]
                progress.advance(len(batch))
                if stop_requested() and progress.done < progress.total:
                    progress.interrupt()
        finally:
            pool.shutdown(cancel_futures=True)
        progress.finish()


def draw_from_folder(
    images: ImageList, image_size: int, seed: int, purpose: str, num_threads: int = 8, augment: bool = True
) -> DrawBatch:
    """Return a function that draws training batches from a folder, in a fresh order every epoch.

    Args:
        images: Checked images.
        image_size: Height and width of the batches.
        seed: Base seed.
        purpose: Word that sets these draws apart from others.
        num_threads: Images decoded at a time; has no influence on the images.
        augment: Random crops and mirroring; without, the middle of each image.
    """
    sampler = EpochSampler(len(images), seed, purpose)
    pool = ThreadPoolExecutor(num_threads)

    def decode(epoch: int, row: int) -> Tensor:
        image = read_rgb(images.root / images.names[row])
        if not augment:
            return to_bytes(crop_centre(image, image_size, image_size))
        return to_bytes(crop_randomly(image, image_size, numpy_generator(seed, f"{purpose}-crop-{epoch}", row)))

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        rows = sampler.rows(step, batch_size)
        epochs = (step * batch_size + torch.arange(batch_size)) // len(images)
        decoded = pool.map(decode, epochs.tolist(), rows.tolist())
        return from_bytes(torch.stack([*decoded])), images.labels[rows]

    return draw
