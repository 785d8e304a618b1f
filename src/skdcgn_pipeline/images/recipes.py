"""How image sets are made: biased from grey shapes, or read from folders."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import ArtifactWriter, sha256_of_file
from skdcgn_pipeline.images.assets import names_below, require_assets
from skdcgn_pipeline.images.bias import apply_bias, group_names
from skdcgn_pipeline.images.function_source import FunctionImagesRecipe
from skdcgn_pipeline.images.grey import (
    CLASS_NAMES,
    IMAGE_SIZE,
    SOURCES,
    GreyImages,
    read_grey_images,
    source_files,
    threshold_of,
)
from skdcgn_pipeline.images.image_set import FileSplit, ImagesInMemory, Role, Split, check_masks
from skdcgn_pipeline.images.imagenet import check_imagenet, list_imagenet, read_tables
from skdcgn_pipeline.images.listing import ListedImages, list_folder, logger, some_of
from skdcgn_pipeline.images.reading import PICTURE_ERRORS, crop_centre, describe_fault, open_mask, open_rgb, to_bytes
from skdcgn_pipeline.images.stored import StoredImages, has_split, write_card, write_split
from skdcgn_pipeline.parameters import Images, Prepare
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.extensions import is_extension
from skdcgn_pipeline.runtime.progress import Progress
from skdcgn_pipeline.runtime.seeding import numpy_generator
from skdcgn_pipeline.samples.encoding import decoding_threads

# Of the splits of a biased set. `train` is biased; all others have random colours: `randomised` the shapes of
# `train`, `validation` shapes of the training side that `train` has not. `HELD_OUT`, these as biased as `train`, is
# stored nowhere: whoever chooses without unbiased images colours it.
HELD_OUT = "biased_validation"
BIASED_ROLES: dict[str, Role] = {
    "train": "train", "randomised": "auxiliary", "validation": "validation", HELD_OUT: "validation"
}  # fmt: skip
# Decoded images of a set beyond which they stay files.
DECODED_BYTES = 2**31
IMAGES_PER_CHECK = 256


@dataclass(frozen=True)
class BiasedImagesRecipe(Recipe[StoredImages]):
    """Grey shapes put through a bias protocol; every random choice is seeded by its split.

    Attributes:
        source: A name in `grey.SOURCES`.
        variant: The bias protocol.
        assets: The asset folder.
        seed: Base seed.
        copies: How often each shape is coloured anew.
        validation_fraction: Share of the training shapes held out for every choice.
        binarise_threshold: A grey value above it belongs to the shape; None takes the source's.
        bias_share: Share of the training images whose colours follow their class.
        masks: Keep the true masks. Generators of coloured images find theirs by themselves, as published.

    Raises:
        SettingError: From every method, if assets are absent or damaged.
    """

    kind: ClassVar[str] = "images"
    version: ClassVar[int] = 2
    reader: ClassVar[Any] = StoredImages

    source: str
    variant: str
    assets: str = ""
    seed: int = 0
    copies: int = 1
    validation_fraction: float = 0.1
    binarise_threshold: float | None = None
    bias_share: float = 1.0
    masks: bool = False

    def asset_files(self) -> list[Path]:
        """Return the files that are read."""
        textures = names_below("textures") if self.variant == "wildlife" else []
        return source_files(self.source, self.assets) + require_assets(self.assets, textures)

    def inputs(self) -> dict[str, Any]:
        """Return the settings, and the SHA-256 of every asset that is read."""
        settings = {
            "source": self.source,
            "copies": self.copies,
            "validation_fraction": self.validation_fraction,
            "binarise_threshold": threshold_of(self.source, self.binarise_threshold),
            "bias_share": self.bias_share,
            **({"masks": True} if self.masks else {}),
        }
        sha256 = [sha256_of_file(path) for path in self.asset_files()]
        return {"settings": settings, "variant": self.variant, "seed": self.seed, "assets": sha256}

    def build(self, writer: ArtifactWriter) -> None:
        """Colour the shapes of every split."""
        shapes = self.shapes()
        for name, part in shapes.items():
            if not has_split(writer, name):
                split = self.colour(name, part)
                write_split(writer, split if self.masks else replace(split, masks=None))
        roles = {name: BIASED_ROLES.get(name, "test") for name in shapes}
        write_card(writer, self.source, IMAGE_SIZE, CLASS_NAMES[self.source], roles, {})

    def shapes(self) -> dict[str, GreyImages]:
        """Return the grey shapes of every split, in the order in which they are told."""
        grey = read_grey_images(self.source, self.assets, self.seed, self.variant)
        order = torch.from_numpy(numpy_generator(self.seed, "validation-split").permutation(len(grey["train"])))
        number = max(1, round(self.validation_fraction * len(order)))
        validation, train = grey["train"][order[:number]], grey["train"][order[number:]]
        parts = {"train": train, "randomised": train, "validation": validation}
        return parts | {name: part for name, part in grey.items() if name != "train"}

    def colour(self, name: str, shapes: GreyImages) -> Split:
        """Return shapes of a split in its colours, with their masks."""
        split = apply_bias(
            GreyImages(shapes.images.repeat(self.copies, 1, 1), shapes.labels.repeat(self.copies)),
            self.variant,
            bias_share=self.bias_share if name in ("train", HELD_OUT) else None,
            generator=numpy_generator(self.seed, f"colours-{name}"),
            binarise_threshold=threshold_of(self.source, self.binarise_threshold),
            assets=self.assets,
        )
        names = {"group": group_names(CLASS_NAMES[self.source])}
        return replace(split, name=name, role=BIASED_ROLES.get(name, "test"), attribute_names=names)


@dataclass(frozen=True)
class FolderImagesRecipe(Recipe[StoredImages]):
    """Images of folders: every file is read once, and stored decoded where all are at most 2 GiB then.

    Attributes:
        listing: What there is.
        image_size, resize: See `reading.crop_centre`.
        skip_unreadable: Leave files out that cannot be read, rather than refuse the folder.
        keep_files: Keep images as files whatever their number, for random crops of whole images.
    """

    kind: ClassVar[str] = "images"
    reader: ClassVar[Any] = StoredImages

    listing: ListedImages
    image_size: int
    resize: int | None = None
    skip_unreadable: bool = False
    keep_files: bool = False

    @cached_property
    def decoded(self) -> bool:
        """Whether images are stored decoded."""
        num_channels = sum(len(split) * (3 if split.masks is None else 4) for split in self.listing.splits)
        return not self.keep_files and num_channels * self.image_size**2 <= DECODED_BYTES

    def inputs(self) -> dict[str, Any]:
        """Return what is read, and how; where images stay files, their places too."""
        return {
            "name": self.listing.name,
            "images": self.listing.fingerprint,
            "image_size": self.image_size,
            "resize": self.resize,
            "skip_unreadable": self.skip_unreadable,
            "roots": None if self.decoded else [str(split.rows.root) for split in self.listing.splits],
        }

    def build(self, writer: ArtifactWriter) -> None:
        """Read every image.

        Raises:
            SettingError: If there are unreadable images that may not be left out, or none is left of a split.
            InterruptedRunError: If a stop was requested; whole splits are kept.
        """
        listing = self.listing
        for split in listing.splits:
            if not has_split(writer, split.name):
                images = self._read(split)
                write_split(writer, images, listing.fingerprints[split.name], len(split) - len(images))
        roles = {split.name: split.role for split in listing.splits}
        write_card(writer, listing.name, self.image_size, listing.class_names, roles, listing.class_groups)

    def _read(self, split: FileSplit) -> Split:
        """Return a split without its unreadable images."""
        progress = Progress(f"reading {split.rows.root.name}", len(split), "images")
        decoded: list[tuple[Tensor, ...]] = []
        faults: dict[int, str] = {}
        with ThreadPoolExecutor(decoding_threads()) as threads:
            for first in range(0, len(split), IMAGES_PER_CHECK):
                part = range(first, min(first + IMAGES_PER_CHECK, len(split)))
                for row, result in zip(part, threads.map(partial(self._decode, split), part), strict=True):
                    if isinstance(result, str):
                        faults[row] = result
                    else:
                        decoded.append(result)
                progress.advance_or_stop(len(part))
        progress.finish()
        self._refuse(split, faults)
        split = split[torch.tensor([row for row in range(len(split)) if row not in faults])]
        rows: list[Any]
        if self.decoded:
            rows = [ImagesInMemory(torch.stack(pictures)) for pictures in zip(*decoded, strict=True)]
        else:
            root = split.rows.root.resolve()
            files = [split.rows, *([] if split.masks is None else [split.masks])]
            rows = [replace(each, root=root, image_size=self.image_size, resize=self.resize) for each in files]
        return replace(split, rows=rows[0], masks=rows[1] if rows[1:] else None)

    def _decode(self, split: FileSplit, row: int) -> tuple[Tensor, ...] | str:
        """Return the middle of an image and of its mask, if it has one, or why they cannot be read."""
        path = split.rows.root / split.rows.names[row]
        try:
            pictures = [open_rgb(path)]
            if split.masks is not None:
                path = split.masks.root / split.masks.names[row]
                pictures.append(open_mask(path))
        except PICTURE_ERRORS as error:
            return describe_fault(error, path)
        sizes = [f"{picture.width} x {picture.height}" for picture in pictures]
        if sizes[0] != sizes[-1]:
            return f"its mask has {sizes[-1]} pixels instead of {sizes[0]}"
        if not self.decoded:
            return ()
        return tuple(to_bytes(crop_centre(picture, self.image_size, self.resize)) for picture in pictures)

    def _refuse(self, split: FileSplit, faults: dict[int, str]) -> None:
        """Refuse images that may not be left out, or where nothing else is left; warn of others."""
        shown = some_of([f"{split.rows.names[row]} ({fault})" for row, fault in faults.items()])
        where = f"of {len(split)} in {split.rows.root}"
        if faults and not self.skip_unreadable:
            remedy = "Replace them, or leave them out with `skip_unreadable`."
            raise SettingError("images", "readable images", f"{len(faults)} ({shown}) {where}", remedy)
        if len(faults) == len(split):
            got = f"none {where} ({shown})"
            raise SettingError("images", "at least one usable image", got, "Give a sound folder.")
        if faults:
            logger.warning("%s: %d unreadable images are left out: %s %s", split.name, len(faults), shown, where)


def image_size_of(images: Images) -> int:
    """Return the height and width of the images of a run."""
    return IMAGE_SIZE if images.are_coloured else images.image_size


def image_set_recipe(
    images: Images, prepare: Prepare, variant: str, assets: str, seed: int
) -> BiasedImagesRecipe | FolderImagesRecipe | FunctionImagesRecipe:
    """Return how the image set of the settings is made; folders are listed now.

    Raises:
        SettingError: If a folder is absent or laid out in another way.
    """
    if images.source in SOURCES:
        return BiasedImagesRecipe(
            source=images.source,
            variant=variant,
            assets=assets,
            seed=seed,
            copies=prepare.copies,
            validation_fraction=prepare.validation_fraction,
            binarise_threshold=prepare.binarise_threshold,
            bias_share=images.bias_share,
            masks=images.masks,
        )
    if is_extension(images.source):
        return FunctionImagesRecipe(images.source, prepare.validation_fraction, seed)
    if images.folder is not None:
        listing = list_folder(images.folder, prepare.validation_fraction, seed)
    else:
        listing = list_imagenet(images.folders, read_tables(assets))
    return FolderImagesRecipe(
        listing,
        image_size=images.image_size,
        resize=images.resize,
        skip_unreadable=images.skip_unreadable,
        keep_files=images.folder is None,
    )


def check_images(
    images: Images, prepare: Prepare, variant: str, assets: str, seed: int, needs_masks: bool = False
) -> tuple[str, ...]:
    """Refuse absent assets, a folder that is no image set, or one without masks that are needed; reads no image.

    Returns:
        The names of the classes; of ImageNet's, what their folders are called.

    Raises:
        SettingError: Naming what is missing or wrong.
    """
    if needs_masks and images.folder is None and not images.masks:
        check_masks(None)
    if images.folders:  # far too many to list twice
        tables = read_tables(assets)
        check_imagenet(images.folders, tables)
        return tuple(tables.wnids)
    recipe = image_set_recipe(images, prepare, variant, assets, seed)
    if isinstance(recipe, FunctionImagesRecipe):
        return recipe.class_names
    if isinstance(recipe, FolderImagesRecipe):
        if needs_masks:
            check_masks(recipe.listing.splits[0])
        return recipe.listing.class_names
    recipe.asset_files()
    return CLASS_NAMES[recipe.source]
