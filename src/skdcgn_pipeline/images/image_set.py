"""Image sets: labelled images by split, whatever they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

# `train` may be biased. `validation` is from the training side, for every choice. `auxiliary` belongs to the training
# side, too, and is neither trained on by classifiers nor reported. `test` is only reported.
Role = Literal["train", "auxiliary", "validation", "test"]


class ImageRows(Protocol):
    """Images by row, in memory or decoded when they are asked for."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def take(self, rows: Tensor) -> Tensor:
        """Return the images of rows [B], uint8 [B, 3, S, S]; value v stands for v / 127.5 - 1."""
        ...


@dataclass(frozen=True)
class ImagesInMemory:
    """Images of a split that fit into memory.

    Attributes:
        images: [N, 3, S, S] uint8.
    """

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor) -> Tensor:
        """Return the images of rows [B]."""
        return self.images.index_select(0, rows)


@dataclass(frozen=True)
class Split:
    """The images of one split, with what is known of each.

    Attributes:
        name: What tables call it.
        role: What it may be used for.
        rows: The images.
        labels: [N] int64, the class of each.
        attributes: By name, [N] int64: what else is known, such as `foreground_index`, `background_index`, `group`;
            -1 where it is not known of an image. `collision` tells (0 or 1) images whose object cannot be seen.
        attribute_names: By attribute, the names of its values, where they have names.
        masks: True masks of the object by row, uint8 [N, 1, S, S]; None where there are none.
    """

    name: str
    role: Role
    rows: ImageRows
    labels: Tensor
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    attribute_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    masks: ImageRows | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def groups(self) -> Tensor | None:
        """[N] number of the (class, attribute) group of each image, for the worst group; None where there are none."""
        if "group" in self.attributes:
            return self.attributes["group"]
        if "background" not in self.attributes:
            return None
        background = self.attributes["background"]
        return self.labels * (int(background.max()) + 1) + background


class ImageSet(Protocol):
    """Labelled images by split; everything behind it works for digits, folders and ImageNet alike.

    Attributes:
        name: What runs, cards and tables call it.
        image_size: Height and width.
        class_names: Name of each class, by number.
        fingerprint: Hash of everything that the images depend on, for identities.
        roles: Role by name of the split, in the order in which they are told.
    """

    name: str
    image_size: int
    class_names: tuple[str, ...]
    fingerprint: str
    roles: Mapping[str, Role]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        ...

    def split(self, name: str) -> Split:
        """Read one split."""
        ...


def splits_with_role(images: ImageSet, role: Role) -> list[str]:
    """Return the names of the splits of a role."""
    return [name for name, given in images.roles.items() if given == role]


def all_rows(split: Split) -> Tensor:
    """Return every image of a split, [N, 3, S, S] uint8."""
    return split.rows.take(torch.arange(len(split)))
