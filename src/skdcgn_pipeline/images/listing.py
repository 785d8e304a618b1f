"""What is in image folders: classes, splits, attributes and masks, by name alone.

Any folder: `<folder>/<split>/<class>/<image>`, and perhaps `<split>/metadata.csv` with `file_name`, `mask_file_name`
and further columns, which become attributes. Everything is sorted by name, so that row i is the same image
wherever the folder lies.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from skdcgn_pipeline.images.image_set import ClassGroups, FileSplit, ImageFiles, Split
from skdcgn_pipeline.runtime.errors import SettingError, nearest
from skdcgn_pipeline.runtime.seeding import numpy_generator

logger = logging.getLogger(__name__)

TRAIN, VALIDATION = "train", "validation"
VALIDATION_NAMES = (VALIDATION, "val", "valid")
METADATA, FILE_NAME, MASK_FILE_NAME = "metadata.csv", "file_name", "mask_file_name"
MASK_SUFFIX = "_masks"
# What systems leave in folders, beside hidden files.
LEFT_BY_SYSTEMS = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
# Images whose content is hashed; of larger folders, names and sizes are.
HASHED_BYTES = 2**30
NAMES_SHOWN = 3
LONGEST_NUMBER = 18  # in digits; longer ones are names
SETTING = "images.folder"
REMEDY = "See 'Your own images' in docs/stages/prepare.md."


@dataclass(frozen=True)
class ListedImages:
    """An image set that is not read yet.

    Attributes:
        name, class_names: As in `stored.StoredImages`.
        splits: In the order in which they are told; of their files' sizes nothing is said.
        class_groups: As in `stored.StoredImages`.
    """

    name: str
    class_names: tuple[str, ...]
    splits: tuple[FileSplit, ...]
    class_groups: ClassGroups = field(default_factory=dict)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """By split, SHA-256 of names, labels, attributes and content; of more than 1 GiB of files, of their sizes."""
        return {split.name: _fingerprint_of(split) for split in self.splits}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the class names, and of all splits."""
        parts = [*self.fingerprints.values()]
        parts += [f"{name}: {[classes.tolist() for classes in groups]}" for name, groups in self.class_groups.items()]
        return hashlib.sha256(repr((self.class_names, parts)).encode()).hexdigest()


def _fingerprint_of(split: FileSplit) -> str:
    names = (*split.rows.names, *(split.masks.names if split.masks else ()))
    paths = [split.rows.root / name for name in names]
    sizes = [_size_of(path) for path in paths]
    known = {key: values.tolist() for key, values in split.attributes.items()}
    facts = (split.name, split.role, split.labels.tolist(), known, dict(split.attribute_names), names, sizes)
    digest = hashlib.sha256(repr(facts).encode())
    if sum(sizes) <= HASHED_BYTES:
        for path, size in zip(paths, sizes, strict=True):
            digest.update(path.read_bytes() if size else b"")
    return digest.hexdigest()


def _size_of(path: Path) -> int:
    """Return the bytes of a file, 0 for a broken link: reading it will tell."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _counts(name: str) -> bool:
    """Tell whether a name is a person's, not a system's."""
    return not name.startswith(".") and name.lower() not in LEFT_BY_SYSTEMS


@cache
def _endings() -> frozenset[str]:
    """Return the endings of files that Pillow reads, in lower case."""
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def some_of(names: Sequence[str]) -> str:
    """Return the first names, and that there are more."""
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def folders_in(root: Path, setting: str) -> list[Path]:
    """Return the folders in `root` in the order of their names; hidden ones do not count.

    Raises:
        SettingError: If there is no such folder, or none in it.
    """
    if not root.is_dir():
        raise SettingError(setting, "a folder with a folder per class", f"nothing at {root}", "Correct the path.")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and _counts(path.name))
    if not folders:
        raise SettingError(setting, "images in folders, one per class", f"none in {root}", "Correct the path.")
    return folders


def files_in_classes(root: Path, setting: str) -> dict[str, list[str]]:
    """Return the image files in each folder of `root`, however deep, as paths below it; classes without any, too.

    Raises:
        SettingError: If there is no such folder, or no image in any of its folders.
    """
    files: dict[str, list[str]] = {}
    others = sorted(p.name for p in root.iterdir() if p.is_file() and _counts(p.name) and p.name != METADATA)
    if others:
        logger.warning("%s: %d files beside the class folders are left out: %s", root, len(others), some_of(others))
    others = []
    for folder in folders_in(root, setting):
        paths, seen = [], set()
        for parent, below, leaves in os.walk(folder, followlinks=True):
            seen.add(Path(parent).resolve())  # links may lead in circles
            below[:] = sorted(n for n in below if _counts(n) and (Path(parent) / n).resolve() not in seen)
            paths += [(Path(parent) / leaf).relative_to(root).as_posix() for leaf in leaves if _counts(leaf)]
        files[folder.name] = sorted(path for path in paths if Path(path).suffix.lower() in _endings())
        others += [path for path in paths if Path(path).suffix.lower() not in _endings()]
    if not any(files.values()):
        raise SettingError(setting, "images in folders, one per class", f"none in {root}", "Correct the path.")
    if others:
        logger.warning("%s: %d files are no images by their names and left out: %s", root, len(others), some_of(others))
    return files


def labelled(root: Path, files: Mapping[str, Sequence[str]], class_of: Mapping[str, int]) -> FileSplit:
    """Return files by class as a test split."""
    rows = [(name, class_of[folder]) for folder, names in files.items() for name in names]
    names, labels = zip(*rows, strict=True)
    return Split(root.name, "test", ImageFiles(root, names), torch.tensor(labels))


def list_folder(
    folder: Path | str, validation_fraction: float, seed: int, class_names: Sequence[str] = ()
) -> ListedImages:
    """List any folder of images, see the head of this module.

    `train` and `validation` (also `val`, `valid`) are splits by that role, every other folder is a test split,
    but for those of masks. Without `validation`, a seeded part of `train` takes its place.

    Args:
        folder: The folder.
        validation_fraction: Share of `train`, where there is no `validation`.
        seed: Base seed of the choice.
        class_names: The only classes, of a classifier that is measured: every folder is a test split then, or the
            folder itself is one where it holds classes.

    Raises:
        SettingError: If it is laid out in another way, or its tables do not fit its files.
    """
    folder = Path(folder).expanduser()
    roots = _find_splits(folder, class_names)
    tables = _read_tables(folder, roots)
    masks = {name: _find_masks(folder, root, tables[name]) for name, root in roots.items()}
    mask_files = {path for of_split in masks.values() for path in of_split.values()}
    mask_roots = {path.relative_to(folder).parts[0] for path in mask_files if path.is_relative_to(folder)}
    for name in [*roots]:
        holds_masks = name.endswith(MASK_SUFFIX) and name.removesuffix(MASK_SUFFIX) in roots
        if holds_masks or (name in mask_roots and tables[name].empty and name != TRAIN):
            del roots[name]
    files = {
        name: {
            label: [path for path in names if (root / path).resolve() not in mask_files]
            for label, names in files_in_classes(root, SETTING).items()
        }
        for name, root in roots.items()
    }
    classes = [*class_names] or [label for label, names in files[TRAIN].items() if names]
    if len(classes) < 2:
        raise SettingError(SETTING, "at least two classes", f"{some_of(classes)} in {roots[TRAIN]}", REMEDY)
    wanted = f"a class of the classifier ({some_of(classes)})" if class_names else f"a class of '{TRAIN}'"
    splits = [_list_split(name, root, files[name], classes, wanted) for name, root in roots.items()]
    splits = _with_attributes(splits, tables, masks)
    if class_names:
        splits = [replace(split, role="test") for split in splits]
    elif not any(split.role == "validation" for split in splits):
        splits = with_validation(splits, validation_fraction, seed)
    order = {"train": 0, "auxiliary": 1, "validation": 2, "test": 3}
    splits.sort(key=lambda split: order[split.role])
    return ListedImages(folder.resolve().name, tuple(classes), tuple(splits))


def _find_splits(folder: Path, class_names: Sequence[str]) -> dict[str, Path]:
    """Return the folders of the splits, and of masks, by name."""
    roots = {path.name: path for path in folders_in(folder, SETTING)}
    if TRAIN not in roots and not class_names:
        layout = f"{folder}/train/<class>/<image>"
        raise SettingError(SETTING, layout, f"no 'train' but {some_of([*roots])}", REMEDY)
    below = {label for root in roots.values() for label in class_names if (root / label).is_dir()}
    holds_classes = not below and not {*roots}.isdisjoint(class_names)
    whole = folder.resolve()  # which has a name where the folder is called `.`
    return {whole.name: whole} if holds_classes else roots


def _list_split(
    name: str, root: Path, files: Mapping[str, Sequence[str]], classes: Sequence[str], wanted: str
) -> FileSplit:
    if empty := [label for label, names in files.items() if not names]:
        logger.warning("%s: class folders without an image are left out: %s", root, some_of(empty))
    filled = {label: names for label, names in files.items() if names}
    for label in filled:
        if label not in classes:
            raise SettingError(SETTING, wanted, f"the folder '{label}' in {root}", nearest(label, classes))
    split = labelled(root, filled, {label: number for number, label in enumerate(classes)})
    if name == TRAIN:
        return replace(split, role="train")
    return replace(split, name=VALIDATION, role="validation") if name in VALIDATION_NAMES else split


def with_validation(splits: Sequence[Split], fraction: float, seed: int) -> list[Split]:
    """Return splits with a seeded part of `train` for choices, which leaves an image of every class."""
    (train,) = [split for split in splits if split.role == "train"]
    order = torch.from_numpy(numpy_generator(seed, "validation-split").permutation(len(train))).flip(0)
    last_of_class = torch.from_numpy(np.unique(train.labels[order], return_index=True)[1])
    free = torch.ones(len(order), dtype=torch.bool).index_fill(0, last_of_class, False)
    chosen = order[free].flip(0)[: max(1, round(fraction * len(order)))].sort().values
    others = torch.ones(len(order), dtype=torch.bool).index_fill(0, chosen, False)
    if not len(chosen):
        where = getattr(train.rows, "root", train.name)
        logger.warning("%s: no class has a second image for choices; they are made on the first", where)
        chosen = order.sort().values
    validation = replace(train[chosen], name=VALIDATION, role="validation")
    rest = [split for split in splits if split.role != "train"]
    return [train[others], validation, *rest]


# --- tables of attributes ------------------------------------------------------------------------


def _normal(name: str) -> str:
    """Return a path with slashes and composed letters: systems write both differently."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def _read_metadata(path: Path) -> pd.DataFrame:
    """Read a table, all of it text, indexed by file name; an empty one where there is none.

    Columns are apart by commas, semicolons or tabulators, as spreadsheets write them.
    """
    if not os.path.lexists(path):
        return pd.DataFrame()
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:
            raise ValueError("a NUL, which is no text")
        first = text.partition("\n")[0]
        delimiter = next((sign for sign in ",;\t" if FILE_NAME in _cells(first, sign)[0]), ",")
        header, *rows = _cells(text, delimiter)
    except (ValueError, OSError, csv.Error) as error:
        raise SettingError(str(path), "a table in UTF-8", error, REMEDY) from error
    if FILE_NAME not in header:
        raise SettingError(str(path), f"a column {FILE_NAME}", some_of(header) or "nothing", REMEDY)
    if wrong := next((cells for cells in rows if len(cells) != len(header)), None):
        raise SettingError(str(path), f"{len(header)} columns", f"{len(wrong)} for '{wrong[0]}'", "Correct the table.")
    if len({*header}) < len(header):
        raise SettingError(str(path), "columns of different names", some_of(header), "Correct the table.")
    table = pd.DataFrame(rows, columns=header, dtype=str)
    table.index = pd.Index([_normal(name) for name in table.pop(FILE_NAME)])
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise SettingError(str(path), "one row for each file", f"'{twice[0]}' twice", "Remove one of them.")
    return table


def _cells(text: str, delimiter: str) -> list[list[str]]:
    """Return the cells of a table by row, without the spaces around them; empty lines do not count."""
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    return [[cell.strip() for cell in cells] for cells in table if cells] or [[]]


def _read_tables(folder: Path, roots: Mapping[str, Path]) -> dict[str, pd.DataFrame]:
    """Return the table of each split: its own, or its rows of one for the whole folder."""
    is_split = folder.resolve() in roots.values()  # its table is its own
    whole, tables = pd.DataFrame() if is_split else _read_metadata(folder / METADATA), {}
    if strange := [name for name in whole.index if name.partition("/")[0] not in roots]:
        expected = f"files as <split>/<class>/<image> or in <split>/{METADATA}"
        raise SettingError(str(folder / METADATA), expected, f"'{strange[0]}'", "Correct the table.")
    for name, root in roots.items():
        tables[name] = _read_metadata(root / METADATA)
        if tables[name].empty and not whole.empty:
            part = whole[whole.index.str.startswith(f"{name}/")]
            tables[name] = part.set_axis(part.index.str.removeprefix(f"{name}/"))
    return tables


def _find_masks(folder: Path, root: Path, table: pd.DataFrame) -> dict[str, Path]:
    """Return the mask of each image that has one, looked for below the split's folder and below the whole."""
    masks = {}
    for name, mask in table.get(MASK_FILE_NAME, pd.Series(dtype=str)).items():
        if not mask:
            continue
        places = [(base / mask.replace("\\", "/")).resolve() for base in (root, folder)]
        masks[str(name)] = next((place for place in places if place.is_file()), places[0])
        if not masks[str(name)].is_file():
            raise SettingError(str(root / METADATA), "masks that are there", f"no '{mask}'", "Correct the table.")
    return masks


def _with_attributes(
    splits: Sequence[FileSplit],
    tables: Mapping[str, pd.DataFrame],
    masks: Mapping[str, Mapping[str, Path]],
) -> list[FileSplit]:
    """Return splits with what their tables tell, numbered the same way in all of them."""
    columns = {}
    for split in splits:
        root = split.rows.root
        table = tables[root.name].drop(columns=MASK_FILE_NAME, errors="ignore")
        names = [_normal(name) for name in split.rows.names]
        if missing := sorted(set(table.index) - set(names)):
            got = f"{len(missing)} that are not there: {some_of(missing)}"
            raise SettingError(str(root / METADATA), "rows of images of the split", got, "Correct the table.")
        if len(table) and len(table) < len(names):
            number = len(names) - len(table)
            logger.warning("%s: %d images have no row; nothing else is known of them", root / METADATA, number)
        columns[split.name] = table.reindex(names, fill_value="")
    numbers: dict[str, dict[str, int]] = {}  # of each value of a column: its own, where all are numbers from 0 on
    named: dict[str, tuple[str, ...]] = {}
    for column in dict.fromkeys(map(str, chain(*columns.values()))):
        values = sorted({value for table in columns.values() for value in table.get(column, ()) if value})
        if all(value.isascii() and value.isdigit() and len(value) < LONGEST_NUMBER for value in values):
            numbers[column] = {value: int(value) for value in values}
        else:
            numbers[column] = {value: number for number, value in enumerate(values)}
            named[column] = tuple(values)
    result = []
    for split in splits:
        root = split.rows.root
        table, of_split = columns[split.name], masks[root.name]
        known = [str(column) for column in table]
        paths = [of_split.get(_normal(name)) for name in split.rows.names]
        files = ImageFiles(root, tuple(os.path.relpath(path, root.resolve()) for path in paths if path), mode="L")
        if of_split and None in paths:
            logger.warning("%s: %d images have no mask; none is used", root, paths.count(None))
        result.append(
            replace(
                split,
                attributes={c: torch.tensor([numbers[c].get(value, -1) for value in table[c]]) for c in known},
                attribute_names={c: named[c] for c in known if c in named},
                masks=files if of_split and None not in paths else None,
            )
        )
    return result
