"""ImageNet and what shares its classes: the index tables of the asset folder, and the layouts of its test sets.

Three layouts are known: classes named by their WordNet id (ImageNet, ImageNet-A, -Sketch, stylised), the nine
classes of ImageNet-9 (arXiv 2006.09994), and cue-conflict images, whose name tells the class of shape and texture
(Geirhos et al., arXiv 1811.12231).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import torch
from pydantic import Field, TypeAdapter, ValidationError

from skdcgn_pipeline.images.assets import require_assets
from skdcgn_pipeline.images.image_set import ClassGroups, FileSplit, ImageFiles
from skdcgn_pipeline.images.listing import ListedImages, files_in_classes, folders_in, labelled, logger
from skdcgn_pipeline.runtime.errors import SettingError, nearest

WNIDS_FILE = "imagenet/imagenet_wnids_sorted.json"
IN9_FILE = "imagenet/in_to_in9.json"
IN9_NAMES_FILE = "imagenet/in9_classes.txt"
CATEGORIES_FILE = "imagenet/human16_imagenet_indices.json"
NOT_IN_IN9 = -1
IMAGENET9, CHALLENGE, CUE_CONFLICT = "imagenet9", "backgrounds_challenge", "cue_conflict"
# What is read of ImageNet-9 by the setting that names its folder; the unchanged images alone need not be there.
IMAGENET9_FOLDERS = {
    IMAGENET9: {"mixed_same": True, "mixed_rand": True, "original": False},
    CHALLENGE: {"original": True, "only_bg_t": True},
}
CHALLENGE_MASKS = "fg_mask"  # of the unchanged images


class ImageNetTables(NamedTuple):
    """How the classes of ImageNet are named and grouped.

    Attributes:
        wnids: The WordNet id of each class, in class order.
        in9_names: Names of the ImageNet-9 classes.
        categories: Names of the entry-level categories of the cue-conflict images.
        class_groups: The classes of each category and of each class of ImageNet-9, by the attributes that name these.
    """

    wnids: tuple[str, ...]
    in9_names: tuple[str, ...]
    categories: tuple[str, ...]
    class_groups: ClassGroups


def _read(path: Path, form: Any) -> Any:
    """Read a table of a form that pydantic knows."""
    try:
        return TypeAdapter(form).validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        _refuse(path, f"JSON where {'.'.join(map(str, fault['loc'])) or 'all'} is sound", fault["msg"])


def _refuse(path: Path, expected: str, got: object) -> NoReturn:
    raise SettingError(str(path), expected, got, "Get the file again; its SHA-256 is known.")


def read_tables(assets: Path | str) -> ImageNetTables:
    """Read ImageNet's index tables from the asset folder.

    These are WordNet ids in class order (a JSON list such as ["n01440764", ...]), the ImageNet-9 class of each class
    ({"151": 0, ..., "0": -1}) and their names, and the classes of each entry-level category ({"airplane": [404], ...}).

    Raises:
        SettingError: If one is absent or does not hold what it should.
    """
    paths = require_assets(assets, [WNIDS_FILE, IN9_FILE, IN9_NAMES_FILE, CATEGORIES_FILE])
    wnids = _read(paths[0], Annotated[tuple[Annotated[str, Field(pattern=r"^n\d{8}$")], ...], Field(min_length=1)])
    if len(set(wnids)) != len(wnids):
        _refuse(paths[0], "every WordNet id once", "some of them twice")
    lines = paths[2].read_text(encoding="utf-8").splitlines()
    names = tuple(line.split()[0].lower() for line in lines if line.strip())
    in9 = _read(paths[1], dict[int, Annotated[int, Field(ge=NOT_IN_IN9, lt=len(names))]])
    if sorted(in9) != [*range(len(wnids))] or {*range(len(names))} - {*in9.values()}:
        _refuse(paths[1], f"all of {len(wnids)} classes, and classes of all {len(names)} groups", "others")
    index = Annotated[int, Field(ge=0, lt=len(wnids))]
    categories = _read(paths[3], dict[str, Annotated[list[index], Field(min_length=1)]])  # type: ignore[valid-type]
    counts = Counter(number for classes in categories.values() for number in classes)
    if twice := sorted(number for number, count in counts.items() if count > 1):
        _refuse(paths[3], "every class in one category at most", f"{twice} in several")
    of_categories = [torch.tensor(classes) for classes in categories.values()]
    of_in9 = [torch.tensor([c for c in range(len(wnids)) if in9[c] == number]) for number in range(len(names))]
    groups = {"shape": of_categories, "texture": of_categories, "in9": of_in9}
    return ImageNetTables(wnids, names, tuple(categories), groups)


# --- folders -------------------------------------------------------------------------------------


def check_wordnet_names(root: Path | str, wnids: tuple[str, ...], setting: str) -> None:
    """Refuse a folder with class folders that the index table does not know, without a look into them."""
    names = [folder.name for folder in folders_in(Path(root), setting)]
    if unknown := sorted(set(names) - set(wnids)):
        raise SettingError(
            setting,
            f"class folders named by the {len(wnids)} WordNet ids of the index table",
            f"{len(unknown)} of {len(names)} others in {root}, the first '{unknown[0]}'",
            "Remove them, or give the folder above or below.",
        )


def list_wordnet(
    root: Path | str, wnids: tuple[str, ...], setting: str = "image folder", complete: bool = False
) -> FileSplit:
    """List a folder whose class folders are named by WordNet ids; all of them must be there where it is `complete`.

    Raises:
        SettingError: If the folder is empty, has a folder that is no class, or lacks a class it must have.
    """
    check_wordnet_names(root, wnids, setting)
    files = files_in_classes(Path(root), setting)
    missing = [wnid for wnid in wnids if not files.get(wnid)]
    if complete and missing:
        raise SettingError(
            setting,
            f"images of all {len(wnids)} classes",
            f"none of {len(missing)} classes in {root}, the first '{missing[0]}'",
            "Complete the folder.",
        )
    return labelled(Path(root), files, {wnid: index for index, wnid in enumerate(wnids)})


def list_in9(root: Path | str, names: tuple[str, ...], setting: str = "ImageNet-9 folder") -> FileSplit:
    """List a folder of ImageNet-9, such as `mixed_same`: class folders `00_dog` to `08_fish`, or `val` with them.

    Returns:
        The split; its classes are the attribute `in9`.

    Raises:
        SettingError: If a class folder is named otherwise, or a number is out of range.
    """
    root = _below_val(Path(root))
    files = files_in_classes(root, setting)
    class_of = {}
    for folder in files:
        match = re.fullmatch(r"(\d+)_(.+)", folder)
        number = int(match[1]) if match else -1
        # The word guards against other numberings; "vehicle" is published as "wheeled vehicle".
        if not match or number >= len(names) or names[number] not in match[2].lower():
            known = ", ".join(f"{index:02}_{name}" for index, name in enumerate(names))
            raise SettingError(setting, f"class folders {known}", f"'{folder}' in {root}", "Give an ImageNet-9 folder.")
        class_of[folder] = number
    split = labelled(root, files, class_of)
    unknown = torch.full_like(split.labels, -1)
    return replace(split, labels=unknown, attributes={"in9": split.labels}, attribute_names={"in9": names})


def _below_val(root: Path) -> Path:
    return root / "val" if (root / "val").is_dir() else root


def with_array_masks(split: FileSplit, folder: Path, setting: str = "ImageNet-9 folder") -> FileSplit:
    """Return the images of a split that have a mask, with it: `<folder>/<class>/<name>.npy`, or below `val`.

    Raises:
        SettingError: If none has.
    """
    folder, root = _below_val(folder).resolve(), split.rows.root.resolve()
    files = [(folder / name).with_suffix(".npy") for name in split.rows.names]
    rows = [row for row, file in enumerate(files) if file.is_file()]
    if not rows:
        wanted = f"masks named as the images, such as {Path(split.rows.names[0]).with_suffix('.npy')}"
        raise SettingError(setting, wanted, f"none in {folder}", "Unpack the archive of ImageNet-9 again.")
    if missing := len(split) - len(rows):
        logger.warning("%s: %d images have no mask and are left out", root, missing)
    names = tuple(os.path.relpath(files[row], root) for row in rows)
    return replace(split[torch.tensor(rows)], masks=ImageFiles(split.rows.root, names, mode="L"))


def parse_cue_conflict_name(name: str, known: Sequence[str], setting: str = "cue-conflict folder") -> list[int]:
    """Return the numbers of the known categories of shape and texture that a name such as `cat7-bottle2.png` tells.

    Raises:
        SettingError: If the name is of another form, or names another category.
    """
    match = re.fullmatch(r"([a-z]+)\d+-([a-z]+)\d+\.[A-Za-z]+", name)
    if not match:
        remedy = "Remove other files, or give the folder of style-transferred images."
        raise SettingError(setting, "images named like cat7-bottle2.png (shape, texture)", repr(name), remedy)
    for category in match.groups():
        if category not in known:
            got = f"'{category}' in '{name}'"
            raise SettingError(setting, f"one of {', '.join(known)}", got, nearest(category, known))
    return [known.index(category) for category in match.groups()]


def list_cue_conflict(root: Path | str, known: tuple[str, ...], setting: str = "cue-conflict folder") -> FileSplit:
    """List cue-conflict images: a folder per known category of shape with files such as `cat7-bottle2.png`.

    Returns:
        The split; its categories are the attributes `shape` and `texture`.

    Raises:
        SettingError: If a name is of another form, or its shape is not that of its folder.
    """
    files = files_in_classes(Path(root), setting)
    split = labelled(Path(root), files, dict.fromkeys(files, -1))
    indices = [parse_cue_conflict_name(Path(name).name, known, setting) for name in split.rows.names]
    for name, (category, _) in zip(split.rows.names, indices, strict=True):
        if known[category] != name.partition("/")[0]:
            remedy = "Put it where it belongs."
            raise SettingError(setting, "images in the folder of their shape", f"'{name}'", remedy)
    shape, texture = torch.tensor(indices).T
    names = {"shape": known, "texture": known}
    return replace(split, name=CUE_CONFLICT, attributes={"shape": shape, "texture": texture}, attribute_names=names)


class _Folder(NamedTuple):
    """A folder of images: name of its split, where it is, what errors call it, where masks are, if any."""

    name: str
    path: Path
    setting: str
    masks: Path | None = None

    @property
    def is_of_classes(self) -> bool:
        """Whether its class folders are named by WordNet ids."""
        return self.name != CUE_CONFLICT and not self.name.startswith(f"{IMAGENET9}/")


def _named(folders: Mapping[str, str | None]) -> Iterator[_Folder]:
    """Yield the folders that are named, `train` and `validation` first; of ImageNet-9's, those that must be or are."""
    for name in sorted(folders, key=lambda name: name not in ("train", "validation")):
        setting, folder = f"images.folders.{name}", folders[name]
        if folder and name in IMAGENET9_FOLDERS:
            for part, is_needed in IMAGENET9_FOLDERS[name].items():
                if is_needed or ((Path(folder) / part).is_dir() and not folders.get(CHALLENGE)):
                    masks = Path(folder) / CHALLENGE_MASKS if (name, part) == (CHALLENGE, "original") else None
                    yield _Folder(f"{IMAGENET9}/{part}", Path(folder) / part, f"{setting} ({part})", masks)
        elif folder:
            yield _Folder(name, Path(folder), setting)


def check_imagenet(folders: Mapping[str, str | None], tables: ImageNetTables) -> None:
    """Refuse absent folders, or those of other classes, without a look into them; `SettingError`s name the setting."""
    for folder in _named(folders):
        if folder.is_of_classes:
            check_wordnet_names(folder.path, tables.wnids, folder.setting)
        else:
            folders_in(folder.path, folder.setting)
        if folder.masks is not None:
            folders_in(folder.masks, f"{folder.setting}, masks")


def list_imagenet(folders: Mapping[str, str | None], tables: ImageNetTables) -> ListedImages:
    """List all images: `train` is trained on, everything else is only reported.

    The published validation images are the first test split, called `validation` as everywhere.

    Args:
        folders: By name, see `parameters.Images`; null or empty ones are left out.
        tables: How the classes are named and grouped.

    Raises:
        SettingError: If a folder is absent, empty, or of other classes.
    """
    splits = []
    for folder in _named(folders):
        if folder.name == CUE_CONFLICT:
            split = list_cue_conflict(folder.path, tables.categories, folder.setting)
        elif not folder.is_of_classes:
            split = list_in9(folder.path, tables.in9_names, folder.setting)
            if folder.masks is not None:
                split = with_array_masks(split, folder.masks, folder.setting)
        else:
            is_train = folder.name == "train"
            split = list_wordnet(folder.path, tables.wnids, folder.setting, complete=is_train)
            classes = split.labels.unique()
            # A folder of some classes is that of a benchmark that knows no others.
            allowed = classes if len(classes) < len(tables.wnids) else None
            split = replace(split, role="train" if is_train else "test", classes=allowed)
        splits.append(replace(split, name=folder.name))
    return ListedImages("imagenet", tables.wnids, tuple(splits), tables.class_groups)
