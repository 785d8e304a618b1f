"""Counterfactuals from pools: each mechanism sampled once, combined at will.

The mechanisms are independent, so N masks, N foregrounds and N backgrounds give N^3 counterfactuals
for one multiply-add each; no network runs while a classifier trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from skdcgn_pipeline.images.epochs import DrawBatch, EpochSampler, RowsByClass
from skdcgn_pipeline.mechanisms import MechanismImages, compose, shift_patches
from skdcgn_pipeline.parameters import Composition
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.pixels import take_decoded_images
from skdcgn_pipeline.transformations import transform_mechanism
from skdcgn_pipeline.vocabulary import MECHANISMS

if TYPE_CHECKING:
    from skdcgn_pipeline.samples.drawing import SampleShards

# Few enough at a time for the memory of each step to be at hand for the next; no image depends on it.
IMAGES_PER_PASS = 128


@dataclass(frozen=True)
class CounterfactualRecord:
    """What counterfactuals are made of.

    Attributes:
        labels: [B, 3], the class of shape, texture and background.
        rows: [B, 3], the pool row of each mechanism.
        foreground_offset: [B, 2] patch shift.
        background_offset: [B, 2] patch shift.
    """

    labels: Tensor
    rows: Tensor
    foreground_offset: Tensor
    background_offset: Tensor

    def __getitem__(self, rows: Tensor) -> Self:
        return type(self)(*(values[rows] for values in vars(self).values()))


@dataclass(frozen=True)
class CounterfactualBatch(CounterfactualRecord):
    """Composites and what they are made of.

    Attributes:
        images: [B, 3, H, W] in [-1, 1].
    """

    images: Tensor


class CounterfactualPool:
    """The images of all three mechanisms in memory, by class.

    Args:
        images: uint8 images as `SampleShards` stores them; the mechanisms may have different numbers of rows.
        labels: [N] the class of each row, where a row is of one image for all mechanisms; or one such tensor per
            mechanism, where they come from several sources.
        num_classes: Number of classes.
        classes: Those that counterfactuals are made of; None takes all.

    Raises:
        SettingError: If one of these has no row.
    """

    def __init__(
        self,
        images: MechanismImages,
        labels: Tensor | Mapping[str, Tensor],
        num_classes: int,
        classes: Sequence[int] | None = None,
    ) -> None:
        self.images, self.num_classes = images, num_classes
        self.image_size = images.mask.shape[-1]
        self.classes = torch.tensor(range(num_classes) if classes is None else classes)
        self.shares_rows = isinstance(labels, Tensor)
        if isinstance(labels, Tensor):
            labels = dict.fromkeys(MECHANISMS, labels)
        self._rows_by_class = {m: RowsByClass(labels[m], num_classes, self.classes) for m in MECHANISMS}

    @classmethod
    def of(cls, samples: SampleShards) -> CounterfactualPool:
        """Read samples into memory."""
        labels = torch.from_numpy(samples.read("labels")["labels"])
        return cls(samples.read_images(), labels, samples.num_classes, samples.classes)

    def _classes_of(self, mechanism: str, composition: Composition) -> Tensor:
        """Return the classes that a counterfactual mechanism draws from; refuses those that the pool lacks."""
        wanted = getattr(composition.classes, mechanism)
        if wanted is None:
            return self.classes
        setting = f"composition.classes.{mechanism}"
        remedy = "Name classes that were drawn, or draw more classes (sample.classes)."
        if isinstance(wanted, str):
            raise SettingError(
                setting, "class numbers", f"the name '{wanted}'", "Resolve names by `Composition.resolved`."
            )
        if missing := sorted(set(wanted) - set(self.classes.tolist())):
            raise SettingError(setting, "classes of the samples", f"{missing[0]} ({len(missing)} such)", remedy)
        return torch.tensor(wanted)

    def draw(
        self, num_images: int, composition: Composition, generator: torch.Generator, per_shape: int = 1
    ) -> CounterfactualBatch:
        """Compose counterfactuals.

        Each image has a class, which factual mechanisms take; the others draw a class of their own, or take the row
        of the shape, see `parameters.Counterfactual`. The image to learn from is labelled by its shape.

        Args:
            num_images: How many.
            composition: Where classes come from, transformations, patch shift.
            generator: Source of every random choice.
            per_shape: Counterfactuals of each mask, one after the other; their transformations differ.

        Raises:
            SettingError: If a class has no row, or a mechanism is to take a row of the shape that it has not.
        """
        transformed: dict[str, Tensor] = {}
        record = self.draw_records(num_images, per_shape, composition, generator, transformed)
        return CounterfactualBatch(**vars(record), images=self._compose(record, composition, transformed))

    def draw_records(
        self,
        num_images: int,
        per_shape: int,
        composition: Composition,
        generator: torch.Generator,
        transformed: dict[str, Tensor] | None = None,
    ) -> CounterfactualRecord:
        """Draw what counterfactuals are made of, `per_shape` from each mask one after the other; composes none.

        A mechanism that something transforms is transformed as soon as it is drawn, into `transformed` if it is given.
        """

        def draw_classes(classes: Tensor, count: int) -> Tensor:
            return classes[torch.randint(len(classes), (count,), generator=generator)]

        if composition.needs_rows and not self.shares_rows:
            setting, expected = f"composition.counterfactual.{composition.needs_rows[0]}", "'class' or 'factual'"
            got = "'same', where mechanisms come from several sources and have no rows in common"
            raise SettingError(setting, expected, got, "Take all mechanisms from one source.")
        num_shapes = -(-num_images // per_shape)
        image_class = draw_classes(self.classes, num_shapes)
        labels, rows = [], []
        for mechanism in MECHANISMS:
            repeats = 1 if mechanism == "shape" else per_shape
            classes = draw_classes(self._classes_of(mechanism, composition), num_shapes * repeats)
            if getattr(composition.counterfactual, mechanism) == "factual":
                classes = image_class.repeat_interleave(repeats)
            drawn = self._rows_by_class[mechanism].draw(classes, generator)
            labels.append(classes.repeat_interleave(per_shape // repeats)[:num_images])
            rows.append(drawn.repeat_interleave(per_shape // repeats)[:num_images])
            if mechanism in composition.needs_rows:  # drawn nonetheless: what follows stays what it is
                labels[-1], rows[-1] = labels[0], rows[0]
            if transformed is not None:
                transformed |= self._transformed(mechanism, rows[-1], composition, generator)
        offsets = torch.zeros(2, num_images, 2, dtype=torch.long)
        if composition.patch_shift:
            offsets = torch.randint(self.image_size, (2, num_images, 2), generator=generator)
        for mechanism, shifts in zip(("texture", "background"), offsets, strict=True):
            if not composition.shifts(mechanism):
                shifts.zero_()
        return CounterfactualRecord(torch.stack(labels, 1), torch.stack(rows, 1), *offsets)

    def compose_records(
        self, record: CounterfactualRecord, composition: Composition, generator: torch.Generator
    ) -> Tensor:
        """Compose counterfactuals [B, 3, H, W] whose rows and offsets are chosen; transformations are drawn anew."""
        transformed: dict[str, Tensor] = {}
        for mechanism, rows in zip(MECHANISMS, record.rows.unbind(1), strict=True):
            transformed |= self._transformed(mechanism, rows, composition, generator)
        return self._compose(record, composition, transformed)

    def _transformed(
        self, mechanism: str, rows: Tensor, composition: Composition, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return a mechanism's transformed images by its name; nothing where nothing transforms them."""
        if not (transformations := composition.transformations.of(mechanism)):
            return {}
        images = take_decoded_images(mechanism, self.images.of(mechanism), rows)
        return {mechanism: transform_mechanism(images, mechanism, transformations, generator)}

    def _compose(
        self, record: CounterfactualRecord, composition: Composition, transformed: Mapping[str, Tensor]
    ) -> Tensor:
        rows = dict(zip(MECHANISMS, record.rows.unbind(1), strict=True))
        shifts = {"texture": record.foreground_offset, "background": record.background_offset}
        shifts = {mechanism: shift for mechanism, shift in shifts.items() if composition.shifts(mechanism)}

        def image_of(mechanism: str, part: slice) -> Tensor:
            shift = shifts[mechanism][part] if mechanism in shifts else None
            if mechanism in transformed:
                image = transformed[mechanism][part]
                return image if shift is None else shift_patches(image, shift)
            return take_decoded_images(mechanism, self.images.of(mechanism), rows[mechanism][part], shift)

        num_images = len(record.labels)
        composites = torch.empty(num_images, 3, self.image_size, self.image_size)
        for first in range(0, num_images, IMAGES_PER_PASS):
            part = slice(first, first + IMAGES_PER_PASS)
            compose(MechanismImages(*(image_of(mechanism, part) for mechanism in MECHANISMS)), out=composites[part])
        return composites

    def draw_labelled_batch(self, composition: Composition, seed: int, purpose: str, per_shape: int = 1) -> DrawBatch:
        """Return a function that composes fresh training batches, see `draw`, with the labels [B, 3] of mechanisms."""

        def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
            batch = self.draw(batch_size, composition, torch_generator(seed, purpose, step), per_shape)
            return batch.images, batch.labels

        return draw

    def draw_fixed_batch(
        self, composition: Composition, num_images: int, per_shape: int, seed: int, purpose: str
    ) -> DrawBatch:
        """Return a function that draws training batches from a fixed set of counterfactuals.

        Only which images belong to the set is kept in memory; they are composed when they are drawn.
        Transformations of the composition, where there are any, are drawn anew each time.
        """
        record = self.draw_records(num_images, per_shape, composition, torch_generator(seed, f"{purpose}-set"))
        sampler = EpochSampler(num_images, seed, purpose)

        def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
            part = record[sampler.rows(step, batch_size)]
            return self.compose_records(part, composition, torch_generator(seed, purpose, step)), part.labels[:, 0]

        return draw
