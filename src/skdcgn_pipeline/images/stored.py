"""Stored image sets: built once, read back by split, decoded from their files where they are large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, identity_of
from skdcgn_pipeline.images.image_set import ClassGroups, ImageRows, ImagesInMemory, Role, Split, splits_with_role
from skdcgn_pipeline.images.reading import crop_centre, crop_randomly, read_picture, to_bytes
from skdcgn_pipeline.runtime.seeding import numpy_generator
from skdcgn_pipeline.samples.columns import read_columns, write_columns
from skdcgn_pipeline.samples.encoding import decoding_threads

CARD, SPLIT_CARD, ROWS = "images.json", "split.json", "rows.parquet"
ATTRIBUTE = "attribute/"  # before the names of columns with attributes


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
    image_size: int
    resize: int | None
    mode: str = "RGB"

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Tensor) -> Tensor:
        """Return the middle of the images of rows [B], uint8 [B, C, S, S].

        Raises:
            SettingError: Naming a file that cannot be read: it changed since it was checked.
        """

        def decode(row: int) -> Tensor:
            picture = read_picture(self.root / self.names[row]).convert(self.mode)
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


class StoredImages:
    """An image set in an artifact; fulfils `image_set.ImageSet`.

    Attributes:
        artifact: Where it is stored.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.fingerprint = artifact.identity
        card = artifact.read_json(CARD)
        self.name: str = card["name"]
        self.image_size: int = card["image_size"]
        self.class_names: tuple[str, ...] = tuple(card["class_names"])
        self.roles: Mapping[str, Role] = dict(card["roles"])
        groups = card["class_groups"]
        self.class_groups: ClassGroups = {
            name: [torch.tensor(part) for part in parts] for name, parts in groups.items()
        }

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def splits(self) -> list[str]:
        """Names of all splits."""
        return list(self.roles)

    @property
    def reported_splits(self) -> list[str]:
        """Names of the splits that classifiers are measured on."""
        return splits_with_role(self, "validation") + splits_with_role(self, "test")

    def fingerprint_of(self, name: str) -> str:
        """Return the hash of everything that the images of one split depend on, whatever the others are."""
        files = self.artifact.manifest["files"]
        return identity_of({file: files[f"splits/{name}/{file}"] for file in (SPLIT_CARD, ROWS)})

    def describe(self) -> pd.DataFrame:
        """Return a row per split: its role, how many images and classes, how many were left out, and a fingerprint."""
        rows = []
        for name, role in self.roles.items():
            card = self._card(name)
            # Attributes may name groups of classes instead; pixels are not read.
            named = [key for key in card["columns"] if self.class_groups and key.startswith(ATTRIBUTE)]
            classes = torch.stack([*self._columns(name, card, ["labels", *named]).values()], 1)
            rows.append(
                {
                    "split": name,
                    "role": role,
                    "num_images": card["num_rows"],
                    "num_classes": len(classes.unique(dim=0)),
                    "num_left_out": card["num_left_out"],
                    "folder": card["root"] or "",
                    "fingerprint": self.fingerprint_of(name),
                }
            )
        return pd.DataFrame(rows)

    def _card(self, name: str) -> dict[str, Any]:
        return self.artifact.read_json(f"splits/{name}/{SPLIT_CARD}")

    def _columns(self, name: str, card: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Tensor]:
        columns = read_columns(self.artifact.path(f"splits/{name}/{ROWS}"), keys, card["num_rows"])
        return {key: torch.from_numpy(column) for key, column in columns.items()}

    def split(self, name: str) -> Split:
        """Read one split.

        Raises:
            DamagedFileError: If its file is damaged.
        """
        card = self._card(name)
        values = self._columns(name, card, card["columns"])
        rows: dict[str, ImageRows] = {}
        for key, mode in (("images", "RGB"), ("masks", "L")):
            if key in values:
                rows[key] = ImagesInMemory(values[key])
            elif card[key] is not None:
                rows[key] = ImageFiles(Path(card["root"]), (*card[key],), self.image_size, card["resize"], mode)
        return Split(
            name=name,
            role=self.roles[name],
            rows=rows["images"],
            labels=values["labels"],
            attributes={key.removeprefix(ATTRIBUTE): v for key, v in values.items() if key.startswith(ATTRIBUTE)},
            attribute_names={key: tuple(names) for key, names in card["attribute_names"].items()},
            masks=rows.get("masks"),
            classes=None if card["classes"] is None else torch.tensor(card["classes"]),
        )


def has_split(writer: ArtifactWriter, name: str) -> bool:
    """Tell whether a split is written."""
    return all(writer.has(f"splits/{name}/{file}") for file in (SPLIT_CARD, ROWS))


def write_split(writer: ArtifactWriter, split: Split, content: str = "", num_left_out: int = 0) -> None:
    """Write a split of a `StoredImages`: of images in memory their pixels, of files their names.

    Args:
        writer: Of the artifact.
        split: The split.
        content: What stands for the content of files.
        num_left_out: Images that could not be read.
    """
    columns = {"labels": split.labels, **{f"{ATTRIBUTE}{key}": v for key, v in split.attributes.items()}}
    card: dict[str, object] = {"root": None, "resize": None, "images": None, "masks": None}
    for key, rows in (("images", split.rows), ("masks", split.masks)):
        if isinstance(rows, ImageFiles):
            card |= {"root": str(rows.root), "resize": rows.resize, key: rows.names}
        elif rows is not None:
            columns[key] = rows.take(torch.arange(len(split)))
    arrays: dict[str, np.ndarray] = {key: values.numpy() for key, values in columns.items()}
    card |= {
        "content": content,
        "num_left_out": num_left_out,
        "columns": [*arrays],
        "num_rows": len(split),
        "attribute_names": split.attribute_names,
        "classes": None if split.classes is None else split.classes.tolist(),
    }
    writer.write_json(f"splits/{split.name}/{SPLIT_CARD}", card)
    writer.write(f"splits/{split.name}/{ROWS}", partial(write_columns, columns=arrays))


def write_card(
    writer: ArtifactWriter,
    name: str,
    image_size: int,
    class_names: tuple[str, ...],
    roles: Mapping[str, Role],
    class_groups: ClassGroups,
) -> None:
    """Write what a `StoredImages` says of itself; the last of its files."""
    card = {
        "name": name,
        "image_size": image_size,
        "class_names": class_names,
        "roles": [*roles.items()],
        "class_groups": {attribute: [part.tolist() for part in parts] for attribute, parts in class_groups.items()},
    }
    writer.write_json(CARD, card)
