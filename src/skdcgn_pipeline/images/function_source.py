"""Images that code of a user's own gives, named `module:function` as `images.source`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import ArtifactWriter, identity_of
from skdcgn_pipeline.images.image_set import ImagesInMemory, Role, Split
from skdcgn_pipeline.images.listing import TRAIN, VALIDATION, with_validation
from skdcgn_pipeline.images.stored import StoredImages, has_split, write_card, write_split
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.extensions import call, sha256_of_source

SETTING = "images.source"
REMEDY = "Return {'train': (images, labels), 'test': (images, labels)}."


@dataclass(frozen=True)
class GivenImages:
    """What a function gave.

    Attributes:
        splits: Its splits.
        class_names: Name of each class.
    """

    splits: list[Split]
    class_names: tuple[str, ...]

    @cached_property
    def identity(self) -> str:
        """A hash of all images, labels and attributes."""
        content = {split.name: _digests_of(split) for split in self.splits}
        return identity_of({"splits": content, "class_names": self.class_names})


@cache
def read_splits(function: str) -> GivenImages:
    """Call the function `module:function` once, whoever asks.

    It returns by name of the split images, uint8 [N, 3, S, S], with their labels, words or whole numbers, or `Split`s,
    which have attributes and masks too.

    Raises:
        SettingError: If it cannot be imported, or returns something else.
    """
    given = call(SETTING, function)
    if not isinstance(given, Mapping) or TRAIN not in given or len(given) < 2:
        got = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise SettingError(SETTING, f"images of '{TRAIN}' and of another split from {function}", got, REMEDY)
    parts = {name: _split(str(name), part) for name, part in given.items()}
    size, classes = parts[TRAIN][0].images.shape[-1], sorted({*parts[TRAIN][1]})
    numbers = {label: number for number, label in enumerate(classes)}
    splits = []
    for name, (split, labels) in parts.items():
        if split.images.shape[1:] != (3, size, size) or split.images.dtype != torch.uint8 or not len(labels):
            got = f"{split.images.dtype} {list(split.images.shape)} in '{name}'"
            raise SettingError(SETTING, f"uint8 images [N, 3, {size}, {size}] from {function}", got, REMEDY)
        if unknown := {*labels} - {*classes}:
            raise SettingError(SETTING, f"labels of '{TRAIN}'", f"{unknown.pop()!r} in '{name}'", REMEDY)
        splits.append(replace(split, labels=torch.tensor([numbers[label] for label in labels])))
    return GivenImages(splits, tuple(map(str, classes)))


def _split(name: str, part: Any) -> tuple[Split, list[Any]]:
    """Return one part of what a function gives as a split, with its labels as they come."""
    try:
        images, labels = (part.images, part.labels) if isinstance(part, Split) else part
        images, labels = torch.as_tensor(images), labels.tolist() if hasattr(labels, "tolist") else [*labels]
        if images.ndim != 4 or len(images) != len(labels):
            raise ValueError(f"{len(labels)} labels of {list(images.shape)}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingError(SETTING, f"images and labels of '{name}'", error, REMEDY) from error
    known = part if isinstance(part, Split) else Split(name, "test", ImagesInMemory(images), torch.zeros(len(labels)))
    roles: dict[str, Role] = {TRAIN: "train", VALIDATION: "validation"}
    return replace(known, name=name, role=roles.get(name, "test")), labels


def _digests_of(split: Split) -> dict[str, Any]:
    tensors: dict[str, Tensor] = {"images": split.images, "labels": split.labels, **split.attributes}
    if split.masks is not None:
        tensors["masks"] = split.masks.take(torch.arange(len(split)))
    digests = {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() for name, tensor in tensors.items()
    }
    return {**digests, "attribute_names": split.attribute_names}


@dataclass(frozen=True)
class FunctionImagesRecipe(Recipe[StoredImages]):
    """Images that a function gives.

    Attributes:
        function: `module:function`, see `read_splits`.
        validation_fraction: Share of `train`, where there is no `validation`.
        seed: Base seed of the choice.
    """

    kind: ClassVar[str] = "images"
    reader: ClassVar[Any] = StoredImages

    function: str
    validation_fraction: float
    seed: int

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return read_splits(self.function).class_names

    def inputs(self) -> dict[str, Any]:
        """Return the source of the function and what it gives: it may read files."""
        return {
            "function": self.function,
            "sha256": sha256_of_source(SETTING, self.function),
            "content": read_splits(self.function).identity,
            "validation_fraction": self.validation_fraction,
            "seed": self.seed,
        }

    def build(self, writer: ArtifactWriter) -> None:
        """Write every split."""
        given = read_splits(self.function)
        splits = given.splits
        if VALIDATION not in {split.name for split in splits}:
            splits = with_validation(splits, self.validation_fraction, self.seed)
        for split in splits:
            if not has_split(writer, split.name):
                write_split(writer, split)
        size = splits[0].images.shape[-1]
        write_card(writer, self.function, size, given.class_names, {split.name: split.role for split in splits}, {})
