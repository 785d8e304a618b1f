"""Samples of a generator on disk: every image with the record that it can be regenerated from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, build_artifact, find_artifacts
from skdcgn_pipeline.images.batches import IMAGE_SCALE, IMAGE_SHIFT, from_bytes
from skdcgn_pipeline.kernels.taking import take_decoded
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, check_images, compose
from skdcgn_pipeline.parameters import Compute, ImageEncoding, choose_classes
from skdcgn_pipeline.runtime.compute import autocast, choose_device, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.encoding import check_encodable, encode
from skdcgn_pipeline.samples.shards import Block, BlockRows, Columns, RowGroups, Shards, write_shards
from skdcgn_pipeline.vocabulary import COMPOSITE, IMAGE_OF_MECHANISM, MECHANISMS

# A generator always renders whole blocks of this many rows, whatever the shards are: the kernels'
# rounding may depend on the batch size, and so would the images.
ROWS_PER_BLOCK = 64
# Composites are made of this many rows at a time, so that memory stays at their bytes.
ROWS_PER_COMPOSITION = 512

RAW = ImageEncoding()
MASK_SCALE = 1 / 255  # a byte b of a mask is b * scale
REMEDY_OF_SPACE = (
    "Lower num_images_per_class, choose another encoding (sample.encoding: jpeg or webp take least) or a lower "
    "quality (sample.quality), free some space or choose another data root."
)


class SampleShards(Shards):
    """Samples of the three mechanisms in Parquet shards.

    Row i has one noise vector, one label for all mechanisms (the classes take turns), two patch offsets and
    three uint8 images before the patch shift: `mask` stands for value / 255, `foreground` and
    `background` for value / 127.5 - 1. However they are stored, they are read as uint8 pixels.

    `read_pairs`, `read_images` and `read_composites` read everything into memory; `rows`, `stream` and
    `stream_parts` do not.
    """

    @property
    def noise_dim(self) -> int:
        """Length of the noise."""
        return self.index["noise_dim"]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.index["num_classes"]

    @property
    def image_size(self) -> int:
        """Height and width of the images."""
        return self.index["image_size"]

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that there are samples of, in order."""
        return tuple(self.index.get("classes", range(self.num_classes)))

    def groups_of(self, mechanism: str, most: int) -> RowGroups:
        """Return the row groups of what one student learns from, of which `most` are kept; see `rows`."""
        return RowGroups(self, ("noise", "labels", *images_of(mechanism)), most)

    def rows(
        self, mechanism: str, rows: Sequence[int] | np.ndarray | Tensor, groups: RowGroups | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read some rows of what one student learns from, in the order asked for; see `RowGroups.take`.

        Args:
            mechanism: shape, texture, background or `COMPOSITE`.
            rows: [B] row numbers.
            groups: Those of `groups_of`, from which rows near those before are taken at less cost.

        Returns:
            noise [B, noise_dim], labels [B], uint8 images [B, C, H, W].
        """
        columns = (self.groups_of(mechanism, 0) if groups is None else groups).take(np.asarray(rows))
        images = _composites_of(columns) if mechanism == COMPOSITE else columns[IMAGE_OF_MECHANISM[mechanism]]
        return torch.from_numpy(columns["noise"]), torch.from_numpy(columns["labels"]), torch.from_numpy(images)

    def read_pairs(self, mechanism: str) -> tuple[Tensor, Tensor, Tensor]:
        """Read what one student learns from: noise [N, noise_dim], labels [N], uint8 images [N, C, H, W]."""
        image = IMAGE_OF_MECHANISM[mechanism]
        columns = self.read("noise", "labels", image)
        return tuple(torch.from_numpy(columns[name]) for name in ("noise", "labels", image))  # type: ignore[return-value]

    def read_images(self) -> MechanismImages:
        """Read the images of all three mechanisms, as uint8."""
        columns = self.read(*IMAGE_OF_MECHANISM.values())
        return MechanismImages(**{name: torch.from_numpy(values) for name, values in columns.items()})

    def read_composites(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compose each row's own mask, foreground and background.

        Without the patch shift: the noise does not tell the offsets, so no student could learn them.

        Returns:
            noise [N, noise_dim], labels [N] and the uint8 composites [N, 3, H, W] (value / 127.5 - 1).

        Raises:
            DamagedFileError: Naming the shard that is damaged.
        """
        columns = self.read("noise", "labels")
        composites = np.empty((self.num_rows, 3, self.image_size, self.image_size), np.uint8)
        first = 0
        for rows in self.stream_parts(images_of(COMPOSITE)):
            part = _composites_of(rows)
            composites[first : first + len(part)] = part
            first += len(part)
        return torch.from_numpy(columns["noise"]), torch.from_numpy(columns["labels"]), torch.from_numpy(composites)


def images_of(mechanism: str) -> list[str]:
    """Return the stored images that those of a mechanism, or composites, are made of."""
    return [*IMAGE_OF_MECHANISM.values()] if mechanism == COMPOSITE else [IMAGE_OF_MECHANISM[mechanism]]


def _composites_of(columns: Columns) -> np.ndarray:
    """Compose stored images row by row, as uint8 [N, 3, H, W]."""
    stored = MechanismImages(**{name: torch.from_numpy(columns[name]) for name in images_of(COMPOSITE)})
    composites = []
    for start in range(0, len(stored), ROWS_PER_COMPOSITION):
        part = stored[start : start + ROWS_PER_COMPOSITION]
        composed = compose(MechanismImages(*(decode_images(m, part.of(m)) for m in MECHANISMS)))
        composites.append(encode_images(COMPOSITE, composed))
    return np.concatenate(composites)


def decode_mask(mask: Tensor) -> Tensor:
    """Turn uint8 masks into floating point in [0, 1]."""
    return mask.float().mul_(MASK_SCALE)


def take_decoded_images(mechanism: str, images: Tensor, rows: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Return `decode_images` of some rows, their patches shifted by offsets [B, 2]; see `take_decoded`."""
    scale, shift = (MASK_SCALE, 0.0) if mechanism == "shape" else (IMAGE_SCALE, IMAGE_SHIFT)
    return take_decoded(images, rows, scale, shift, offsets)


def decode_images(mechanism: str, images: Tensor) -> Tensor:
    """Turn stored uint8 images of a mechanism, or composites, into their range: [0, 1] for shape, else [-1, 1]."""
    return decode_mask(images) if mechanism == "shape" else from_bytes(images)


def encode_images(mechanism: str, images: Tensor) -> np.ndarray:
    """Quantise images of a mechanism, or composites, to uint8 of their fixed range."""
    scaled = images.float().mul(255) if mechanism == "shape" else images.float().add(1).mul_(127.5)
    return scaled.round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()


def draw_records(
    purpose: str,
    seed: int,
    block: int,
    noise_dim: int,
    num_classes: int,
    image_size: int,
    classes: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Draw what the images of one block of rows are made from; only `classes`, where they are given.

    Returns:
        `row`, `labels` [64], `noise` [64, noise_dim], and the two offsets [64, 2] in 0 .. image_size - 1.
    """
    generator = torch_generator(seed, f"{purpose}-records", block)
    rows = torch.arange(block * ROWS_PER_BLOCK, (block + 1) * ROWS_PER_BLOCK)
    shape = (ROWS_PER_BLOCK, 2)
    return {
        "row": rows,
        "labels": rows % num_classes if classes is None else torch.tensor(classes)[rows % len(classes)],
        "noise": torch.randn(ROWS_PER_BLOCK, noise_dim, generator=generator),
        "foreground_offset": torch.randint(image_size, shape, generator=generator, dtype=torch.int16),
        "background_offset": torch.randint(image_size, shape, generator=generator, dtype=torch.int16),
    }


def _render_block(
    generator: CounterfactualGenerator,
    device: torch.device,
    purpose: str,
    seed: int,
    compute: Compute,
    classes: Sequence[int] | None,
    block: int,
) -> dict[str, np.ndarray]:
    """Draw the records of a block and render its images."""
    sizes = generator.noise_dim, generator.num_classes, generator.image_size
    records = draw_records(purpose, seed, block, *sizes, classes)
    with torch.no_grad(), autocast(compute, device):
        images = generator.render(records["noise"].to(device), records["labels"].to(device))
    check_images(images, ROWS_PER_BLOCK, generator.image_size)
    columns = {name: values.numpy() for name, values in records.items()}
    return columns | {IMAGE_OF_MECHANISM[m]: encode_images(m, images.of(m)) for m in MECHANISMS}


def _encode_block(how: ImageEncoding, block: Block) -> Block:
    """Encode the images of some rows."""
    images = {name: encode(np.asarray(block[name]), how) for name in IMAGE_OF_MECHANISM.values()}
    return {**block, **images}


def count_shards(num_images_per_class: int, num_classes: int, rows_per_shard: int) -> int:
    """Return how many shards hold so many rows."""
    return -(-num_images_per_class * num_classes // rows_per_shard)


def draw_samples(
    store: Path,
    generator: CounterfactualGenerator,
    generator_identity: dict[str, Any],
    num_images_per_class: int,
    rows_per_shard: int,
    seed: int,
    compute: Compute,
    purpose: str = "samples",
    *,
    storing: ImageEncoding = RAW,
    classes: Sequence[int] | None = None,
    shard_range: tuple[int, int] | None = None,
) -> SampleShards:
    """Draw samples of every mechanism and stream them into shards, or reuse those that are there.

    The images depend on the generator, the purpose, the seed, the classes and the number of rows alone.
    Memory stays at a few blocks of rows. A killed run continues with the next missing shard; a damaged
    shard is named and drawn again.

    With a shard range the samples are an artifact of their own, of these shards alone. Ranges may be drawn
    side by side, in one store or in several; a call without a range takes over the shards that finished
    artifacts in its store have, draws the others, and ends in the same bytes as one that drew them all. To
    bring the work of another machine together with this one's, copy its artifacts into the store.

    Args:
        store: Directory of samples.
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

    Raises:
        SettingError: If the disk cannot hold the samples, a class is out of range, or the generator breaks its
            contract.
        InterruptedRunError: If a stop was requested; finished shards are kept.
    """
    compute = compute.for_sampling()
    classes = choose_classes("sample.classes", None if classes is None else tuple(classes), generator.num_classes, {})
    num_classes = generator.num_classes if classes is None else len(classes)
    num_rows = num_images_per_class * num_classes
    inputs = {
        "kind": "samples",
        "generator": generator_identity,
        "num_images_per_class": num_images_per_class,
        "rows_per_shard": rows_per_shard,
        "seed": seed,
        "precision": compute.precision,
        "purpose": purpose,
        **storing.stored_as,
        **({} if classes is None else {"classes": list(classes)}),
    }
    of_range = {} if shard_range is None else {"shard_range": list(shard_range)}
    encoded = storing.encoding != "raw"

    def source() -> BlockRows:
        device = choose_device(compute.device) if isinstance(generator, nn.Module) else torch.device("cpu")
        if isinstance(generator, nn.Module):
            generator.to(device)
        render = partial(_render_block, generator, device, purpose, seed, compute, classes)
        finish = partial(_encode_block, storing) if encoded else None
        return BlockRows(render, ROWS_PER_BLOCK, finish, storing.encoding_threads)

    def write(writer: ArtifactWriter) -> None:
        check_encodable(storing)
        properties = {name: getattr(generator, name) for name in ("noise_dim", "num_classes", "image_size")}
        write_shards(
            writer,
            purpose,
            num_rows,
            rows_per_shard,
            source,
            properties if classes is None else properties | {"classes": list(classes)},
            None if encoded else 7 * generator.image_size**2 + 4 * generator.noise_dim + 24,
            REMEDY_OF_SPACE,
            shard_range,
            find_artifacts(store, inputs, but="shard_range"),
        )

    return SampleShards(build_artifact(store, inputs | of_range, write))


# --- images of a student without mechanisms -------------------------------------------------------


class StoredStudent(Protocol):
    """A student on disk, as `training.distil_student.StudentArtifact` is."""

    artifact: Artifact

    @property
    def card(self) -> dict:
        """Its mechanism and the interface it was made for."""
        ...

    def open(self) -> nn.Module:
        """Load it: noise [N, noise_dim], labels [N] -> images [N, C, H, W]."""
        ...


class CompositeShards(Shards):
    """Images of a student without mechanisms in Parquet shards.

    Columns: `images` uint8 [N, 3, H, W] (value / 127.5 - 1), `labels` [N] (row mod num_classes) and `noise`
    [N, noise_dim], which an image is regenerated from.
    """

    def read_labelled(self) -> tuple[Tensor, Tensor]:
        """Read all images (uint8 [N, 3, H, W]) and their labels [N]."""
        columns = self.read("images", "labels")
        return torch.from_numpy(columns["images"]), torch.from_numpy(columns["labels"])


def _render_composites(
    student: nn.Module, sizes: tuple[int, int, int], device: torch.device, seed: int, compute: Compute, block: int
) -> dict[str, np.ndarray]:
    """Draw noise and labels of a block and let a student without mechanisms render them."""
    records = draw_records("composites", seed, block, *sizes)
    noise, labels = records["noise"], records["labels"]
    with torch.no_grad(), autocast(compute, device):
        images = student(noise.to(device), labels.to(device))
    if not torch.isfinite(images).all():
        raise SettingError(f"{COMPOSITE} student", "finite values", "NaN or infinity", "Distil it at a smaller rate.")
    return {"images": encode_images(COMPOSITE, images), "labels": labels.numpy(), "noise": noise.numpy()}


def draw_composites(
    store: Path,
    student: StoredStudent,
    num_images_per_class: int,
    rows_per_shard: int,
    seed: int,
    compute: Compute,
) -> CompositeShards:
    """Draw images of a student without mechanisms and stream them into shards, or reuse those that are there.

    The images depend on the student, the seed and the number of rows alone; memory and kills as in
    `draw_samples`.

    Args:
        store: Directory of such images.
        student: A student of `COMPOSITE`; opened only if images are missing.
        num_images_per_class: Rows per class.
        rows_per_shard: Rows of one Parquet file.
        seed: Base seed.
        compute: Device and sampling precision.

    Raises:
        SettingError: If the student is one of a mechanism or gives no finite values, or the disk cannot
            hold the images.
        InterruptedRunError: If a stop was requested; finished shards are kept.
    """
    compute, card = compute.for_sampling(), student.card
    if card["mechanism"] != COMPOSITE:
        remedy = "Draw the images of mechanisms with `draw_samples`."
        raise SettingError("student", "a student of the composite", f"one of the {card['mechanism']}", remedy)
    sizes = card["noise_dim"], card["num_classes"], card["image_size"]
    num_rows = num_images_per_class * card["num_classes"]

    def source() -> BlockRows:
        device = choose_device(compute.device)
        network = place(student.open(), device, torch.channels_last)
        return BlockRows(partial(_render_composites, network, sizes, device, seed, compute), ROWS_PER_BLOCK)

    def write(writer: ArtifactWriter) -> None:
        bytes_per_row = 3 * card["image_size"] ** 2 + 4 * card["noise_dim"] + 8
        properties = {"num_classes": card["num_classes"]}
        write_shards(writer, "composites", num_rows, rows_per_shard, source, properties, bytes_per_row)

    inputs = {
        "kind": "composites",
        "student": student.artifact.identity,
        "num_images_per_class": num_images_per_class,
        "rows_per_shard": rows_per_shard,
        "seed": seed,
        "precision": compute.precision,
    }
    return CompositeShards(build_artifact(store, inputs, write))
