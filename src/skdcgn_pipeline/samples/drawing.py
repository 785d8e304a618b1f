"""Samples of a generator on disk: every image with the record that it can be regenerated from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from skdcgn_pipeline.artifacts.recipe import Run, build_in
from skdcgn_pipeline.artifacts.store import Artifact, find_artifacts
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, check_images, compose
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import Compute, ImageEncoding, choose_classes
from skdcgn_pipeline.runtime.compute import autocast, choose_device, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.progress import Progress, stop_requested
from skdcgn_pipeline.samples.columns import RAW
from skdcgn_pipeline.samples.pixels import decode_images, encode_images
from skdcgn_pipeline.samples.records import ROWS_PER_BLOCK, draw_records
from skdcgn_pipeline.samples.shards import (
    BlockRows,
    Columns,
    Plan,
    Shards,
    ShardsRecipe,
)
from skdcgn_pipeline.vocabulary import COMPOSITE, IMAGE_OF_MECHANISM, MECHANISMS

REMEDY_OF_SPACE = (
    "Lower num_images_per_class, choose another encoding (sample.encoding: jpeg or webp take least) or a lower "
    "quality (sample.quality), free some space or choose another data root."
)


class SampleShards(Shards):
    """Samples of the three mechanisms in Parquet shards.

    Row i has one noise vector, one label for all mechanisms (the classes take turns), two patch offsets and
    three uint8 images before the patch shift: `mask` stands for value / 255, `foreground` and
    `background` for value / 127.5 - 1. However they are stored, they are read as uint8 pixels.

    `read_pairs` and `read_images` read everything into memory; `stream_parts` does not.

    Attributes:
        noise_dim: Length of the noise.
        num_classes: Number of classes.
        image_size: Height and width of the images.
        classes: The classes that there are samples of, in order.
    """

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.noise_dim, self.num_classes, self.image_size = (self.index[name] for name in GeneratorSize._fields)
        self.classes: tuple[int, ...] = tuple(self.index.get("classes", range(self.num_classes)))

    def read_pairs(self, mechanism: str) -> tuple[Tensor, Tensor, Tensor]:
        """Read what one student learns from: noise [N, noise_dim], labels [N], uint8 images [N, C, H, W].

        Composites are each row's own mask, foreground and background, without the patch shift: the noise does not
        tell the offsets, so no student could learn them. Raises as `stream_parts`.
        """
        pairs = (pairs_of(mechanism, part) for part in self.stream_parts(columns_of(mechanism)))
        together = self.gather({str(n): values.numpy() for n, values in enumerate(pair)} for pair in pairs)
        noise, labels, images = map(torch.from_numpy, together.values())
        return noise, labels, images

    def read_images(self) -> MechanismImages:
        """Read the images of all three mechanisms, as uint8."""
        columns = self.read(*IMAGE_OF_MECHANISM.values())
        return MechanismImages(**{name: torch.from_numpy(values) for name, values in columns.items()})


def columns_of(mechanism: str) -> list[str]:
    """Return the columns that a student of a mechanism, or of composites, learns from."""
    images = [*IMAGE_OF_MECHANISM.values()] if mechanism == COMPOSITE else [IMAGE_OF_MECHANISM[mechanism]]
    return ["noise", "labels", *images]


def pairs_of(mechanism: str, columns: Columns) -> tuple[Tensor, Tensor, Tensor]:
    """Return what one student learns from some rows: noise, labels and uint8 images, composites row by row."""
    stored = {name: torch.from_numpy(values) for name, values in columns.items()}
    if mechanism != COMPOSITE:
        return stored["noise"], stored["labels"], stored[IMAGE_OF_MECHANISM[mechanism]]
    images = (decode_images(m, stored[name]) for m, name in IMAGE_OF_MECHANISM.items())
    composites = encode_images(COMPOSITE, compose(MechanismImages(*images)))
    return stored["noise"], stored["labels"], torch.from_numpy(composites)


@dataclass(frozen=True)
class SamplesRecipe(ShardsRecipe[SampleShards]):
    """Samples of every mechanism, streamed into shards.

    The images depend on the generator, the purpose, the seed, the classes and the number of rows alone.

    With a shard range the samples are an artifact of their own, of these shards alone. Ranges may be drawn
    side by side, in one store or in several; a recipe without a range takes over the shards that finished
    artifacts in its store have, draws the others, and ends in the same bytes as one that drew them all. To
    bring the work of another machine together with this one's, copy its artifacts into the store.

    Attributes:
        generator: A teacher or students.
        generator_identity: What the generator's images depend on; part of the samples' identity.
        num_images_per_class: Rows per class.
        rows_per_shard: Rows of one Parquet file.
        seed: Base seed.
        compute: Device and sampling precision.
        purpose: Word that sets these draws apart from others: `samples`, `heldout`, `pool`.
        storing: How images are stored.
        classes: Class numbers in order; None draws all.
        shard_range: [first, last): only these shards, as far as they exist.
        draw_elsewhere: As in `ShardsRecipe`, see `draw_side_by_side`.

    Raises:
        SettingError: If a class is out of range; when built, if the disk cannot hold the samples or the generator
            breaks its contract.
    """

    kind: ClassVar[str] = "samples"
    folder: ClassVar[str] = "sample"
    reader: ClassVar[Any] = SampleShards

    generator: CounterfactualGenerator
    generator_identity: dict[str, Any]
    num_images_per_class: int
    rows_per_shard: int
    seed: int = 0
    compute: Compute = field(default_factory=Compute)
    purpose: str = "samples"
    storing: ImageEncoding = RAW
    classes: Sequence[int] | None = None
    shard_range: tuple[int, int] | None = None
    draw_elsewhere: Callable[[Path, Sequence[int]], None] | None = None

    def __post_init__(self) -> None:
        classes = None if self.classes is None else tuple(self.classes)
        classes = choose_classes("sample.classes", classes, self.generator.num_classes, {})
        object.__setattr__(self, "classes", classes)

    def inputs(self) -> dict[str, Any]:
        """Return the generator's identity, the numbers, and what else changes the stored bytes."""
        return {
            "generator": self.generator_identity,
            "num_images_per_class": self.num_images_per_class,
            "rows_per_shard": self.rows_per_shard,
            "seed": self.seed,
            "precision": self.compute.sampling_precision,
            "purpose": self.purpose,
            **self.storing.stored_as,
            **({} if self.classes is None else {"classes": list(self.classes)}),
            **({} if self.shard_range is None else {"shard_range": list(self.shard_range)}),
        }

    def plan(self) -> Plan:
        """Return the number of rows and, of images that are not encoded, their size; the index tells the classes."""
        noise_dim, num_classes, image_size = size = GeneratorSize.of(self.generator)
        chosen = {} if self.classes is None else {"classes": list(self.classes)}
        num_rows = self.num_images_per_class * len(chosen.get("classes", range(num_classes)))
        bytes_per_row = 7 * image_size**2 + 4 * noise_dim + 24 if self.storing.encoding == "raw" else None
        return Plan(self.purpose, num_rows, bytes_per_row, size._asdict() | chosen, REMEDY_OF_SPACE)

    def alike(self, store: Path) -> Sequence[Artifact]:
        """Return samples of other ranges of the same shards."""
        return find_artifacts(store, self.identity_inputs, but="shard_range")

    def open_rows(self, store: Path) -> BlockRows:
        """Return what renders and encodes the images."""
        device = torch.device("cpu")
        if isinstance(self.generator, nn.Module):
            device = choose_device(self.compute.device)
            self.generator.to(device)
        return BlockRows(partial(self._render, device), ROWS_PER_BLOCK, self.storing)

    def _render(self, device: torch.device, block: int) -> dict[str, np.ndarray]:
        """Draw the records of a block and render its images."""
        generator = self.generator
        records = draw_records(self.purpose, self.seed, block, GeneratorSize.of(generator), self.classes)
        with torch.no_grad(), autocast(self.compute.for_sampling(), device):
            images = generator.render(records["noise"].to(device), records["labels"].to(device))
        check_images(images, ROWS_PER_BLOCK, generator.image_size)
        columns = {name: values.numpy() for name, values in records.items()}
        return columns | {IMAGE_OF_MECHANISM[m]: encode_images(m, images.of(m)) for m in MECHANISMS}


def draw_side_by_side(
    run: Run, recipe: SamplesRecipe, open_again: Callable[[], CounterfactualGenerator] | None
) -> SampleShards:
    """Return samples; an engine that works elsewhere draws their shards, each a unit, which the whole takes over.

    Args:
        run: Store and engine.
        recipe: What is drawn.
        open_again: Opens the recipe's generator in a worker, for networks are not sent; None draws here.

    Raises:
        UnitFailedError: Naming the shards that could not be drawn.
        SettingError, InterruptedRunError: As the recipe.
    """
    if open_again is None or not run.engine.elsewhere:
        return run.make(recipe)
    settings = {each.name: getattr(recipe, each.name) for each in fields(recipe) if each.name != "generator"}
    open_drawing = partial(_open_drawing, open_generator=open_again, settings=settings)

    def draw(folder: Path, numbers: Sequence[int]) -> None:
        units = {f"{recipe.purpose}, shard {number}": number for number in numbers}
        run.work_side_by_side(partial(open_drawing, folder), units, recipe.purpose, "shards")

    return run.make(replace(recipe, draw_elsewhere=draw))


def _open_drawing(
    folder: Path, open_generator: Callable[[], CounterfactualGenerator], settings: dict[str, Any]
) -> Callable[[int], SampleShards]:
    """Return what draws the shard with a number into a folder."""
    recipe = SamplesRecipe(open_generator(), **settings)

    def draw(number: int) -> SampleShards:
        return build_in(folder, replace(recipe, shard_range=(number, number + 1)))

    return draw


def draw_composites(
    student: nn.Module, size: GeneratorSize, num_images_per_class: int, seed: int, compute: Compute
) -> tuple[Tensor, Tensor]:
    """Draw images of a student without mechanisms into memory.

    Args:
        student: Noise, labels -> images [B, 3, H, W] in [-1, 1].
        size: What it takes and gives.
        num_images_per_class: Rows per class.
        seed: Base seed.
        compute: Device and sampling precision.

    Returns:
        uint8 images [N, 3, H, W] (value / 127.5 - 1) and labels [N], row mod num_classes. A row depends on student
        and seed alone.

    Raises:
        SettingError: If the student gives no finite values.
        InterruptedRunError: If a stop was requested.
    """
    device, num_rows = choose_device(compute.device), num_images_per_class * size.num_classes
    network = place(student, device, torch.channels_last)
    progress = Progress("composites", num_rows, "rows")
    parts = []
    for block in range(-(-num_rows // ROWS_PER_BLOCK)):
        if stop_requested():
            progress.interrupt()
        records = draw_records("composites", seed, block, size)
        with torch.no_grad(), autocast(compute.for_sampling(), device):
            images = network(records["noise"].to(device), records["labels"].to(device))
        if not torch.isfinite(images).all():
            remedy = "Distil it at a smaller rate."
            raise SettingError(f"{COMPOSITE} student", "finite values", "NaN or infinity", remedy)
        parts.append((torch.from_numpy(encode_images(COMPOSITE, images)), records["labels"]))
        progress.advance(len(images))
    images, labels = (torch.cat(part)[:num_rows] for part in zip(*parts, strict=True))
    return images, labels
