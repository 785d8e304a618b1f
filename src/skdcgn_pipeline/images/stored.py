"""Image sets: built once, read back by split, decoded from their files where they are large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, identity_of
from skdcgn_pipeline.images.image_set import ClassGroups, ImageFiles, ImagesInMemory, Role, Split
from skdcgn_pipeline.samples.columns import read_columns, write_columns

CARD, SPLIT_CARD, ROWS = "images.json", "split.json", "rows.parquet"
ATTRIBUTE = "attribute/"  # before the names of columns with attributes


class StoredImages:
    """Labelled images by split; everything behind it works for digits, folders and ImageNet alike.

    Attributes:
        artifact: Where they are stored.
        fingerprint: Hash of everything that the images depend on, for identities.
        name: What runs, cards and tables call them.
        image_size: Height and width.
        class_names: Name of each class, by number.
        roles: Role by name of the split, in the order in which they are told.
        class_groups: Groups of classes that attributes name instead of a class.
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

    def splits(self, *roles: Role) -> list[str]:
        """Return the names of the splits of some roles."""
        return [name for role in roles for name, given in self.roles.items() if given == role]

    @property
    def reported_splits(self) -> list[str]:
        """Names of the splits that classifiers are measured on."""
        return self.splits("validation", "test")

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
        """Read one split; raises `DamagedFileError` if its file is damaged."""
        card = self._card(name)
        values = self._columns(name, card, card["columns"])
        rows: dict[str, Any] = {}
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
