"""Counterfactuals straight from a generator: image i of a seed is the same however and wherever it is drawn.

Where the same images are used for a long time, `CounterfactualPool` is the faster way: it renders a mechanism once and
combines it often. Here every image has noise of its own and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from skdcgn_pipeline.counterfactuals.composing import IMAGES_PER_PASS, CounterfactualPool
from skdcgn_pipeline.counterfactuals.value_range import ValueRange, check_value_range, to_value_range
from skdcgn_pipeline.images.epochs import SharedEpoch
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, MechanismLabels, compose
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import Composition
from skdcgn_pipeline.runtime.errors import SettingError, check_whole
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.records import ROWS_PER_BLOCK, draw_records
from skdcgn_pipeline.transformations import transform_mechanism
from skdcgn_pipeline.vocabulary import MECHANISMS

PURPOSE = "counterfactuals"
ClassesLike = int | Sequence[int] | Tensor
# A seed and the number of an image among those of this seed.
Draw = tuple[int, int]


Records = dict[str, Tensor]  # what images are made from, see `draw_records`, with labels [N, 3] of the mechanisms


def _draw_block(generator: CounterfactualGenerator, seed: int, block: int, composition: Composition) -> Records:
    drawn = draw_records(PURPOSE, seed, block, GeneratorSize.of(generator))
    shape = (ROWS_PER_BLOCK, len(MECHANISMS))
    own = torch.randint(generator.num_classes, shape, generator=torch_generator(seed, f"{PURPOSE}-classes", block))
    for column, mechanism in enumerate(MECHANISMS):
        if (chosen := getattr(composition.classes, mechanism)) is not None:
            source = torch_generator(seed, f"{PURPOSE}-classes-{mechanism}", block)
            own[:, column] = torch.tensor(chosen)[torch.randint(len(chosen), (ROWS_PER_BLOCK,), generator=source)]
    is_factual = torch.tensor([getattr(composition.counterfactual, m) == "factual" for m in MECHANISMS])
    return drawn | {"labels": torch.where(is_factual, drawn["labels"][:, None], own)}


def noise_of(generator: CounterfactualGenerator, seed: int) -> Tensor:
    """Return the noise [1, noise_dim] of the first image of a seed, as `sample_counterfactuals` draws it.

    Raises:
        SettingError: If the seed is impossible.
    """
    return draw_records(PURPOSE, _check_seed(seed), 0, GeneratorSize.of(generator))["noise"][:1]


def _draw_records(generator: CounterfactualGenerator, draws: Sequence[Draw], composition: Composition) -> Records:
    """Draw what images are made from; the numbers of a block of rows are drawn at once."""
    block_of = cache(lambda seed, block: _draw_block(generator, seed, block, composition))
    blocks = [block_of(seed, row // ROWS_PER_BLOCK) for seed, row in draws]
    rows = [row % ROWS_PER_BLOCK for _, row in draws]
    names = blocks[0]
    return {name: torch.stack([block[name][row] for block, row in zip(blocks, rows, strict=True)]) for name in names}


def _sample(
    generator: CounterfactualGenerator,
    draws: Sequence[Draw],
    composition: Composition,
    classes: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Render, transform, shift and compose: images [N, 3, H, W] in [-1, 1] on the generator's device, labels [N, 3]."""
    records = _draw_records(generator, draws, composition)
    of_mechanism = dict(zip(MECHANISMS, records["labels"].unbind(1), strict=True))
    given = dict(classes or {})
    shape = (of_mechanism | given)["shape"]  # one noise for all mechanisms: the row of the shape is its class
    labels = torch.stack([*(of_mechanism | dict.fromkeys(composition.needs_rows, shape) | given).values()], 1)
    device = next((p.device for p in generator.parameters()), None) if isinstance(generator, nn.Module) else None
    composites = []
    for first in range(0, len(draws), IMAGES_PER_PASS):
        part = slice(first, first + IMAGES_PER_PASS)
        with torch.no_grad():
            rendered = generator.render(records["noise"][part].to(device), labels[part].to(device))
        images = []
        for mechanism in MECHANISMS:
            image = rendered.of(mechanism)
            if transformations := composition.transformations.of(mechanism):
                seeds = [torch_generator(seed, f"{PURPOSE}-{mechanism}", row) for seed, row in draws[part]]
                image = transform_mechanism(image, mechanism, transformations, seeds)
            images.append(image)
        offsets = [
            records[name][part].long().to(device) if composition.shifts(mechanism) else None
            for mechanism, name in (("texture", "foreground_offset"), ("background", "background_offset"))
        ]
        composites.append(compose(MechanismImages(*images), *offsets))
    return torch.cat(composites), labels


def _classes(mechanism: str, given: ClassesLike, num_images: int, num_classes: int) -> Tensor:
    """Return classes [num_images] for one class or one per image."""
    classes = torch.as_tensor(given)
    if classes.ndim == 0:
        classes = classes.expand(num_images)
    remedy = "Give one class, one per image, or None for random ones."
    if classes.shape != (num_images,) or classes.is_floating_point():
        got = f"{classes.dtype} of shape {list(classes.shape)}"
        raise SettingError(mechanism, f"a class or {num_images} integers", got, remedy)
    if not (int(classes.min()) >= 0 and int(classes.max()) < num_classes):
        got = f"{int(classes.min())} to {int(classes.max())}"
        raise SettingError(mechanism, f"classes 0 to {num_classes - 1}", got, remedy)
    return classes.long()


def _known_classes(composition: Composition | None, generator: CounterfactualGenerator) -> Composition:
    """Return a composition, by default the published one, whose classes the generator knows."""
    return (composition or Composition()).resolved(generator.num_classes, {}, "composition")


def _check_count(name: str, value: object) -> None:
    check_whole(name, value, 1, "Ask for at least one image.")


def _check_seed(seed: object) -> int:
    return check_whole("seed", seed, 0, "Give an int, or one per image.")


def sample_counterfactuals(
    generator: CounterfactualGenerator,
    num_images: int,
    seed: int | Sequence[int] = 0,
    classes: Mapping[str, ClassesLike | None] | None = None,
    composition: Composition | None = None,
) -> tuple[Tensor, MechanismLabels]:
    """Render and compose counterfactuals of a teacher or of students.

    Args:
        generator: A teacher or students.
        num_images: How many.
        seed: With one seed, image i depends on the seed and i alone, so that fewer images are the first of
            more; with one seed per image, each is the first image of its seed.
        classes: By mechanism, one class or one per image; None draws them at random.
        composition: Where the class of a mechanism comes from where none is given (factual ones share i mod
            num_classes, `same` is the shape's: all mechanisms of an image have one noise), the transformations and
            the patch shift; by default counterfactual, untransformed and shifted, as the published CGN composes.

    Returns:
        Composites [N, 3, H, W] in [-1, 1], on the generator's device, and the class of each mechanism, on the
        CPU. Batches of other sizes change an image by no more than the rounding of floating point.

    Raises:
        SettingError: If a number, a seed or a class is impossible.
    """
    _check_count("num_images", num_images)
    composition = _known_classes(composition, generator)
    if isinstance(seed, Sequence):
        if len(seed) != num_images:
            raise SettingError("seed", f"one seed, or {num_images}", f"{len(seed)} seeds", "Give one per image.")
        draws = [(_check_seed(of_image), 0) for of_image in seed]
    else:
        draws = [(_check_seed(seed), row) for row in range(num_images)]
    given = {mechanism: value for mechanism, value in (classes or {}).items() if value is not None}
    fixed = {m: _classes(m, value, num_images, generator.num_classes) for m, value in given.items()}
    images, labels = _sample(generator, draws, composition, fixed)
    return images, MechanismLabels.of(labels)


class CounterfactualDataset(Dataset[tuple[Tensor, Any]]):
    """Counterfactuals for any PyTorch training, rendered when they are asked for: pairs of an image and its class.

    Image i is that of `StudentCGN.sample` with the same seed, in any order and any number of workers, which need
    no seeding of their own; epoch e has the images from e * num_images on, see `set_epoch`. A `DataLoader` asks for
    whole batches, and each is rendered at once; in batches of another size an image differs by no more than the
    rounding of floating point. Every image is drawn by itself, so that shuffling only costs time.

    Args:
        generator: Students or a teacher.
        num_images: Length of one pass.
        seed: Base seed.
        composition: As in `sample_counterfactuals`; transformations are drawn anew for each image.
        all_labels: Give the classes [3] of shape, texture and background instead of the shape's alone, a whole number.
        transform: Applied to each image [3, H, W] of the value range.
        value_range: What the pixels are given in, see `to_value_range`.

    Raises:
        SettingError: If the number, the seed, a class of the composition or the value range is impossible.
    """

    def __init__(
        self,
        generator: CounterfactualGenerator,
        num_images: int,
        seed: int = 0,
        composition: Composition | None = None,
        all_labels: bool = False,
        transform: Callable[[Tensor], Any] | None = None,
        value_range: ValueRange = (-1, 1),
    ) -> None:
        _check_count("num_images", num_images)
        check_value_range(value_range)
        self.generator, self.num_images, self.seed = generator, num_images, _check_seed(seed)
        self.composition = _known_classes(composition, generator)
        self.all_labels, self.transform, self.value_range = all_labels, transform, value_range
        self._epoch = SharedEpoch()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0 on: each has other images; worker processes that live on follow."""
        self._epoch.set(epoch)

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Any]]:
        """Render several images at once: pairs of an image and its label."""
        first = self._epoch.get() * self.num_images
        draws = [(self.seed, first + range(self.num_images)[index]) for index in indices]  # refuses what is beyond
        images, labels = _sample(self.generator, draws, self.composition)
        images = to_value_range(images, self.value_range)
        transformed = list(images) if self.transform is None else [self.transform(image) for image in images]
        return list(zip(transformed, labels if self.all_labels else labels[:, 0].tolist(), strict=True))


class CounterfactualStream(IterableDataset):
    """Fresh counterfactuals for any PyTorch training, by the batch: `DataLoader(stream, batch_size=None)`.

    Batch k is the same whatever the number of workers, which take turns; epoch e has the batches from
    e * num_batches on, see `set_epoch`. From students or a teacher batch k has the images k * batch_size and so on of
    `CounterfactualDataset`; a pool is faster and combines what it has.

    Args:
        source: Students, a teacher, or a pool of images of the mechanisms.
        batch_size: Images per batch.
        num_batches: Length of one pass.
        seed: Base seed.
        composition: How they are composed.
        value_range: What the pixels are given in, see `to_value_range`.
    """

    def __init__(
        self,
        source: CounterfactualPool | CounterfactualGenerator,
        batch_size: int,
        num_batches: int,
        seed: int = 0,
        composition: Composition | None = None,
        value_range: ValueRange = (-1, 1),
    ) -> None:
        super().__init__()
        _check_count("batch_size", batch_size)
        _check_count("num_batches", num_batches)
        check_value_range(value_range)
        self.source, self.batch_size, self.num_batches = source, batch_size, num_batches
        self.value_range, self._epoch = value_range, SharedEpoch()
        if isinstance(source, CounterfactualPool):
            self.composition, self.seed = composition or Composition(), seed
        else:
            self.composition, self.seed = _known_classes(composition, source), _check_seed(seed)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0 on: each has other images; worker processes that live on follow."""
        self._epoch.set(epoch)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        turn, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        first = self._epoch.get() * self.num_batches
        for step in range(first + turn, first + self.num_batches, stride):
            images, labels = self._draw(step)
            yield to_value_range(images, self.value_range), labels

    def _draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the training batch of a step, labelled by shape."""
        if isinstance(self.source, CounterfactualPool):
            generator = torch_generator(self.seed, "counterfactual-stream", step)
            batch = self.source.draw(self.batch_size, self.composition, generator)
            return batch.images, batch.labels[:, 0]
        rows = range(step * self.batch_size, (step + 1) * self.batch_size)
        images, labels = _sample(self.source, [(self.seed, row) for row in rows], self.composition)
        return images, labels[:, 0]
