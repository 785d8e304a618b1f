"""Splits of image sets: labelled images, in memory or decoded from files when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from skdcgn_pipeline.images.reading import crop_centre, crop_randomly, read_picture, to_bytes
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import numpy_generator
from skdcgn_pipeline.samples.encoding import decoding_threads

# `train` may be biased. `validation` is from the training side, for every choice. `auxiliary` belongs to the training
# side, too, and is neither trained on by classifiers nor reported. `test` is only reported.
Role = Literal["train", "auxiliary", "validation", "test"]
# By the attribute that has them as its values: the classes of each group, such as those of ImageNet-9.
ClassGroups = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True)
class ImagesInMemory:
    """Images of a split that fit into memory.

    Attributes:
        images: [N, 3, S, S] uint8.
    """

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor) -> ImagesInMemory:
        return ImagesInMemory(self.take(rows))

    def take(self, rows: Tensor) -> Tensor:
        """Return the images of rows [B], uint8 [B, 3, S, S]; value v stands for v / 127.5 - 1."""
        return self.images.index_select(0, rows)


@dataclass(frozen=True)
class ImageFiles:
    """Images of a split that are decoded when they are asked for.

    Attributes:
        root: The folder that names start from.
        names: Path of each image below it.
        image_size, resize: See `reading.crop_centre`.
        mode: `RGB`, or `L` for masks.
    """

    root: Path
    names: tuple[str, ...]
    image_size: int = 0
    resize: int | None = None
    mode: str = "RGB"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Tensor) -> ImageFiles:
        return replace(self, names=tuple(self.names[row] for row in rows.tolist()))

    def take(self, rows: Tensor) -> Tensor:
        """Return the middle of the images of rows [B], uint8 [B, C, S, S]; raises as `read_picture`."""

        def decode(row: int) -> Tensor:
            picture = read_picture(self.root / self.names[row], self.mode)
            return to_bytes(crop_centre(picture, self.image_size, self.resize))

        with ThreadPoolExecutor(decoding_threads()) as threads:
            return torch.stack([*threads.map(decode, rows.tolist())])

    def take_crops(self, rows: Tensor, epochs: Tensor, seed: int, purpose: str) -> Tensor:
        """Return random parts of the images of rows [B], perhaps mirrored, uint8 [B, 3, S, S].

        Each depends on (seed, purpose, epoch, row) alone, not on what else is drawn.
        """

        def decode(row: int, epoch: int) -> Tensor:
            generator = numpy_generator(seed, f"{purpose}-crop-{epoch}", row)
            return to_bytes(crop_randomly(read_picture(self.root / self.names[row]), self.image_size, generator))

        with ThreadPoolExecutor(decoding_threads()) as threads:
            return torch.stack([*threads.map(decode, rows.tolist(), epochs.tolist())])


RowsT = TypeVar("RowsT", ImagesInMemory, ImageFiles)


@dataclass(frozen=True)
class Split(Generic[RowsT]):
    """The images of one split, with what is known of each.

    Attributes:
        name: What tables call it.
        role: What it may be used for.
        rows: The images.
        labels: [N] int64, the class of each; -1 where it is none of the image set's.
        attributes: By name, [N] int64: what else is known, such as `foreground_index`, `background_index`, `group`;
            -1 where it is not known of an image. `collision` tells (0 or 1) images whose object cannot be seen.
        attribute_names: By attribute, the names of its values, where they have names.
        masks: True masks of the object by row, uint8 [N, 1, S, S]; None where there are none.
        classes: The only classes that may be predicted, of a benchmark that knows no others; None for all.
    """

    name: str
    role: Role
    rows: RowsT
    labels: Tensor
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    attribute_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    masks: RowsT | None = None
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> Split[RowsT]:
        numbers = torch.arange(len(self))[rows]
        attributes = {name: values[numbers] for name, values in self.attributes.items()}
        masks = None if self.masks is None else self.masks[numbers]
        return replace(self, rows=self.rows[numbers], labels=self.labels[numbers], attributes=attributes, masks=masks)

    @property
    def images(self) -> Tensor:
        """Every image, [N, 3, S, S] uint8; not copied where they are in memory."""
        if isinstance(self.rows, ImagesInMemory):
            return self.rows.images
        return self.rows.take(torch.arange(len(self)))

    @property
    def collision(self) -> Tensor:
        """[N] bool, whether the object cannot be seen against its background; nowhere where it is not known."""
        return self.attributes.get("collision", torch.zeros(len(self))).bool()

    @property
    def groups(self) -> Tensor | None:
        """[N] number of the (class, background) group of each image, for the worst group; -1 where it has none.

        An attribute `group` comes first. None where nothing is known of groups.
        """
        if "group" in self.attributes:
            return self.attributes["group"]
        if "background" not in self.attributes:
            return None
        background = self.attributes["background"]
        groups = self.labels * self._num_backgrounds + background
        return groups.masked_fill((background < 0) | (self.labels < 0), -1)

    @property
    def _num_backgrounds(self) -> int:
        """Number of backgrounds, the same in every split where they have names."""
        return len(self.attribute_names.get("background", ())) or int(self.attributes["background"].max()) + 1

    def group_name(self, number: int, class_names: Sequence[str]) -> str:
        """Return what tables call a group, such as `bird on aqua`."""
        if "group" in self.attributes:
            names = self.attribute_names.get("group")
            return names[number] if names else f"group {number}"
        label, background = divmod(number, self._num_backgrounds)
        names = self.attribute_names.get("background")
        return f"{class_names[label]} on {names[background] if names else f'background {background}'}"


# Images that are kept as files.
FileSplit = Split[ImageFiles]


def check_masks(split: Split | None) -> None:
    """Refuse, with a `SettingError`, training images without true masks; None stands for those that never have any."""
    if split is None or split.masks is None:
        remedy = (
            "Give masks (`mask_file_name` in train/metadata.csv; of coloured images `images.masks=true`), or leave out "
            "'cutouts' (teacher, training set)."
        )
        raise SettingError("cutouts", "a mask for every training image", "images without", remedy)


def spread_rows(split: Split, num_rows: int) -> Tensor:
    """Return rows of a split at equal distances, all where there are fewer: of every class where these are sorted."""
    return torch.linspace(0, len(split) - 1, min(num_rows, len(split))).round().long()
