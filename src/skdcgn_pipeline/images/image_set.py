"""Image sets: labelled images by split, whatever they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

# `train` may be biased. `validation` is from the training side, for every choice. `auxiliary` belongs to the training
# side, too, and is neither trained on by classifiers nor reported. `test` is only reported.
Role = Literal["train", "auxiliary", "validation", "test"]
# By the attribute that has them as its values: the classes of each group, such as those of ImageNet-9.
ClassGroups = Mapping[str, Sequence[Tensor]]


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
        labels: [N] int64, the class of each; -1 where it is none of the image set's.
        attributes: By name, [N] int64: what else is known, such as `foreground_index`, `background_index`, `group`;
            -1 where it is not known of an image. `collision` tells (0 or 1) images whose object cannot be seen.
        attribute_names: By attribute, the names of its values, where they have names.
        masks: True masks of the object by row, uint8 [N, 1, S, S]; None where there are none.
        classes: The only classes that may be predicted, of a benchmark that knows no others; None for all.
    """

    name: str
    role: Role
    rows: ImageRows
    labels: Tensor
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    attribute_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    masks: ImageRows | None = None
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> Split:
        numbers = torch.arange(len(self))[rows]
        attributes = {name: values[numbers] for name, values in self.attributes.items()}
        masks = None if self.masks is None else ImagesInMemory(self.masks.take(numbers))
        images = ImagesInMemory(self.rows.take(numbers))
        return replace(self, rows=images, labels=self.labels[numbers], attributes=attributes, masks=masks)

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


class ImageSet(Protocol):
    """Labelled images by split; everything behind it works for digits, folders and ImageNet alike.

    Attributes:
        name: What runs, cards and tables call it.
        image_size: Height and width.
        class_names: Name of each class, by number.
        fingerprint: Hash of everything that the images depend on, for identities.
        roles: Role by name of the split, in the order in which they are told.
        class_groups: Groups of classes that attributes name instead of a class.
    """

    name: str
    image_size: int
    class_names: tuple[str, ...]
    fingerprint: str
    roles: Mapping[str, Role]
    class_groups: ClassGroups

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def split(self, name: str) -> Split:
        """Read one split."""
        ...


def splits_with_role(images: ImageSet, role: Role) -> list[str]:
    """Return the names of the splits of a role."""
    return [name for name, given in images.roles.items() if given == role]


def spread_rows(split: Split, num_rows: int) -> Tensor:
    """Return rows of a split at equal distances, all where there are fewer: of every class where these are sorted."""
    return torch.linspace(0, len(split) - 1, min(num_rows, len(split))).round().long()
