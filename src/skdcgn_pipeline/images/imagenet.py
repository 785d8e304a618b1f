"""How ImageNet's classes are named and grouped: the index tables of the asset folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline.images.assets import require_assets
from skdcgn_pipeline.runtime.errors import SettingError

WNIDS_FILE = "imagenet/imagenet_wnids_sorted.json"
IN9_FILE = "imagenet/in_to_in9.json"
IN9_NAMES_FILE = "imagenet/in9_classes.txt"
CATEGORIES_FILE = "imagenet/human16_imagenet_indices.json"
NOT_IN_IN9 = -1


@dataclass(frozen=True)
class ImageNetTables:
    """How the classes of ImageNet are named and grouped.

    Attributes:
        wnids: The WordNet id of each class, in class order.
        in9_of_class: [K] the ImageNet-9 class of each class, or -1.
        in9_names: Names of the ImageNet-9 classes.
        categories: For each entry-level category of the cue-conflict images, its classes.
    """

    wnids: tuple[str, ...]
    in9_of_class: Tensor
    in9_names: tuple[str, ...]
    categories: Mapping[str, Tensor]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.wnids)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingError(str(path), "JSON", error, "Get the file again; its SHA-256 is known.") from error


def _check_indices(path: Path, indices: Iterable[object], num_classes: int) -> list[int]:
    """Return indices of classes as they are.

    Raises:
        SettingError: If one is no class index.
    """
    checked: list[int] = []
    for index in indices:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < num_classes:
            wanted = f"class indices from 0 to {num_classes - 1}"
            raise SettingError(str(path), wanted, repr(index), "Get the file again; its SHA-256 is known.")
        checked.append(index)
    return checked


def read_wnids(path: Path) -> tuple[str, ...]:
    """Read WordNet ids in class order: a JSON list such as ["n01440764", ...].

    Raises:
        SettingError: If the file holds anything else, or an id twice.
    """
    wnids = _read_json(path)
    sound = isinstance(wnids, list) and all(isinstance(w, str) and re.fullmatch(r"n\d{8}", w) for w in wnids)
    if not sound or not wnids or len(set(wnids)) != len(wnids):
        got = "something else" if not sound or not wnids else "some of them twice"
        raise SettingError(str(path), "a list of WordNet ids", got, "Get the file again; its SHA-256 is known.")
    return tuple(wnids)


def read_in9(path: Path, num_classes: int, num_groups: int) -> Tensor:
    """Read the ImageNet-9 class of each class: a JSON object such as {"151": 0, ..., "0": -1}.

    Returns:
        [num_classes], -1 where there is none.

    Raises:
        SettingError: If a class is missing, or an index is out of range.
    """
    table = _read_json(path)
    if not isinstance(table, dict):
        raise SettingError(str(path), "an object of class indices", type(table).__name__, "Get the file again.")
    keys = _check_indices(path, (int(key) if str(key).isdigit() else key for key in table), num_classes)
    missing = sorted(set(range(num_classes)) - set(keys))
    if missing:
        raise SettingError(str(path), f"all of {num_classes} classes", f"{len(missing)} missing", "Get it again.")
    groups = _check_indices(path, (group for group in table.values() if group != NOT_IN_IN9), num_groups)
    if sorted(set(groups)) != list(range(num_groups)):
        raise SettingError(str(path), f"classes of all {num_groups} groups", sorted(set(groups)), "Get it again.")
    in9_of_class = torch.full((num_classes,), NOT_IN_IN9)
    in9_of_class[torch.tensor(keys)] = torch.tensor(list(table.values()))
    return in9_of_class


def read_categories(path: Path, num_classes: int) -> dict[str, Tensor]:
    """Read the classes of each entry-level category: a JSON object such as {"airplane": [404], ...}.

    Raises:
        SettingError: If a category is empty, an index is out of range, or a class is in two categories.
    """
    table = _read_json(path)
    if not isinstance(table, dict) or not all(isinstance(own, list) and own for own in table.values()):
        raise SettingError(str(path), "a list of classes for each category", "something else", "Get the file again.")
    categories = {name: torch.tensor(_check_indices(path, own, num_classes)) for name, own in table.items()}
    indices = [index for own in table.values() for index in own]
    twice = sorted({index for index in indices if indices.count(index) > 1})
    if twice:
        raise SettingError(str(path), "every class in one category at most", f"{twice} in several", "Get it again.")
    return categories


def read_tables(assets: Path | str) -> ImageNetTables:
    """Read ImageNet's index tables from the asset folder.

    Raises:
        SettingError: If one is absent or does not hold what it should.
    """
    paths = require_assets(assets, [WNIDS_FILE, IN9_FILE, IN9_NAMES_FILE, CATEGORIES_FILE])
    wnids = read_wnids(paths[0])
    names = tuple(line.split()[0].lower() for line in paths[2].read_text(encoding="utf-8").splitlines() if line.strip())
    return ImageNetTables(
        wnids, read_in9(paths[1], len(wnids), len(names)), names, read_categories(paths[3], len(wnids))
    )
