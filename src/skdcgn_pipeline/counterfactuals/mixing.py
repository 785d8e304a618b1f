"""Original images and counterfactuals in one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from skdcgn_pipeline.images.epochs import EpochSampler, SharedEpoch
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import torch_generator

Item = tuple[Any, int]


class MixedDataset(Dataset[Item]):
    """Originals and counterfactuals, see `mix`."""

    def __init__(self, originals: Dataset[Item], counterfactuals: Dataset[Item], share: float, seed: int) -> None:
        self.parts, self.seed = (originals, counterfactuals), seed
        self.num_images = len(originals)  # type: ignore[arg-type]
        num_counterfactuals = round(share * self.num_images)
        self.counts = (self.num_images - num_counterfactuals, num_counterfactuals)
        self._epoch = SharedEpoch()
        self._drawn: tuple[int, list[tuple[int, int]]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0 on: other originals, other counterfactuals, another order."""
        self._epoch.set(epoch)
        for part in self.parts:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def _places(self) -> list[tuple[int, int]]:
        """Return for each image of the epoch which part it is of, and its row there."""
        epoch = self._epoch.get()
        if self._drawn is None or self._drawn[0] != epoch:
            order = torch.randperm(self.num_images, generator=torch_generator(self.seed, "mix", epoch))
            rows = []
            for number, (part, count) in enumerate(zip(self.parts, self.counts, strict=True)):
                sampler = EpochSampler(len(part), self.seed, f"mix-{number}")  # type: ignore[arg-type]
                rows.append(iter(sampler.rows(epoch, count).tolist() if count else ()))
            self._drawn = epoch, [(part, next(rows[part])) for part in (order >= self.counts[0]).int().tolist()]
        return self._drawn[1]

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return several images with their labels; a part that renders several at once is asked once."""
        places = [self._places()[index] for index in indices]
        found = []
        for number, part in enumerate(self.parts):
            rows = [row for which, row in places if which == number]
            together = getattr(part, "__getitems__", lambda rows: [part[row] for row in rows])  # noqa: B023
            found.append(iter(together(rows) if rows else []))
        return [next(found[which]) for which, _ in places]


def mix(originals: Dataset[Item], counterfactuals: Dataset[Item], share: float, seed: int = 0) -> MixedDataset:
    """Mix originals with counterfactuals into one dataset as long as the originals, so that both cost the same.

    Which images an epoch has, and in which order, depends on seed and epoch alone: no shuffling is needed. Over the
    epochs (`set_epoch`) all images of either come equally often.

    Args:
        originals: Pairs of an image and its class, such as torchvision's `ImageFolder`.
        counterfactuals: The same of counterfactuals, in the originals' value range, such as `CounterfactualDataset`.
        share: Of the counterfactuals, in [0, 1].
        seed: Base seed.

    Raises:
        SettingError: If one of them is empty, the share is none, or their images have other shapes or types.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise SettingError("share", "a number in [0, 1]", repr(share), "Give the share of the counterfactuals.")
    first = []
    for name, part in (("originals", originals), ("counterfactuals", counterfactuals)):
        if not len(part):  # type: ignore[arg-type]
            raise SettingError(name, "at least one image", "none", "Give a dataset with images.")
        image, label = part[0]
        if not isinstance(image, Tensor):
            raise SettingError(name, "tensors", type(image).__name__, "Give the dataset a transform to tensors.")
        first.append((f"{image.dtype} {list(image.shape)}", "a class" if isinstance(label, int) else "other labels"))
    if first[0] != first[1]:
        remedy = "Give both the same size and value range (`transform`, `value_range`) and the class alone as label."
        raise SettingError("counterfactuals", " with ".join(first[0]), " with ".join(first[1]), remedy)
    return MixedDataset(originals, counterfactuals, share, seed)
