"""Grey shapes with labels, which bias protocols colour: the same form whatever they come from.

To add a source, write a function that returns `GreyImages` by split, and name it in `SOURCES`.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.images.assets import names_below, read_table, require_assets
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.runtime.seeding import numpy_generator

IMAGE_SIZE = 32
# A grey value above it belongs to the shape: digits are enlarged from 8 x 8 pixels, and blurred by that.
BINARISE_THRESHOLD = {"digits": 0.4, "mnist": 0.1, "fashion_mnist": 0.1}
DIGIT_NAMES = tuple("0123456789")
FASHION_NAMES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def threshold_of(source: str, chosen: float | None = None) -> float:
    """Return the grey value above which a pixel belongs to the shape: the chosen one, or that of the source."""
    return chosen or BINARISE_THRESHOLD[source]


@dataclass(frozen=True)
class GreyImages:
    """Grey shapes of one split.

    Attributes:
        images: [N, 32, 32] in [0, 1].
        labels: [N], integers.
    """

    images: Tensor
    labels: Tensor

    def __getitem__(self, rows: slice | Tensor) -> GreyImages:
        return GreyImages(self.images[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)


def _resize(images: Tensor, mode: str) -> Tensor:
    return F.interpolate(images[:, None].float(), size=(IMAGE_SIZE, IMAGE_SIZE), mode=mode)[:, 0].clamp(0, 1)


def _read_digits(assets: Path, seed: int, variant: str) -> dict[str, GreyImages]:
    """Read scikit-learn's 1,797 handwritten digits (8 x 8 grey levels), a fixed 80/20 split by the seed."""
    from sklearn.datasets import load_digits  # slow to import and needed by this source alone

    bunch = load_digits()
    images = _resize(torch.from_numpy(bunch.images) / 16.0, "bilinear")
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    order = torch.from_numpy(numpy_generator(seed, "digits-split").permutation(len(labels)))
    num_test = len(labels) // 5
    digits = GreyImages(images, labels)
    return {"train": digits[order[num_test:]], "test": digits[order[:num_test]]}


def unpack(path: Path) -> bytes:
    """Return the content of a file, plain or .gz; raises `SettingError` if it cannot be unpacked."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise SettingError(str(path), "a complete .gz file", error, "Get the file again.") from error


def read_idx(path: Path) -> Tensor:
    """Read an idx file of bytes, plain or .gz, as MNIST and its successors are published.

    Returns:
        uint8, of the shape that the file tells.

    Raises:
        SettingError: If it is no such file, or cut off.
    """
    content = unpack(path)
    try:
        zero, kind, num_dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{num_dimensions}I", content, 4)
        data = np.frombuffer(content, np.uint8, offset=4 + 4 * num_dimensions)
        if (zero, kind) != (0, 8) or math.prod(shape) != len(data):
            raise ValueError(f"{len(data)} bytes of kind {kind} for shape {list(shape)}")
    except (ValueError, struct.error) as error:
        raise SettingError(str(path), "an idx file of bytes", error, "Get the file again.") from error
    return torch.from_numpy(data.reshape(shape).copy())


def _read_idx_files(folder: str, assets: Path, seed: int, variant: str) -> dict[str, GreyImages]:
    """Read MNIST, or what is published in its form.

    The CGN's own test digits of double_colored and wildlife are MNIST train 50,000 to 59,999; MNIST's test
    digits are then a third split, `mnist_test`, that nothing is ever tuned on.
    """
    files = {path.name.partition("-ubyte")[0]: path for path in source_files(folder, assets)}

    def split(name: str) -> GreyImages:
        images = read_idx(files[f"{name}-images-idx3"])
        return GreyImages(_resize(images / 255.0, "nearest-exact"), read_idx(files[f"{name}-labels-idx1"]).long())

    train, test = split("train"), split("t10k")
    if variant == "colored" or folder != "mnist":
        return {"train": train, "test": test}
    return {"train": train[slice(0, 50_000)], "test": train[slice(50_000, None)], "mnist_test": test}


SourceReader = Callable[[Path, int, str], dict[str, GreyImages]]
SOURCES: dict[str, SourceReader] = {
    "digits": _read_digits,
    "mnist": partial(_read_idx_files, "mnist"),
    "fashion_mnist": partial(_read_idx_files, "fashion_mnist"),
}
# Name of each class, by source.
CLASS_NAMES = {"digits": DIGIT_NAMES, "mnist": DIGIT_NAMES, "fashion_mnist": FASHION_NAMES}


def source_files(source: str, assets: Path | str) -> list[Path]:
    """Return the files that a source reads, each plain or .gz, whichever is there.

    Raises:
        SettingError: If one is absent, or holds something else: MNIST's successors have files of the same names.
    """
    names = [name.removesuffix(".gz") for name in names_below(source)]
    packed = [name if (Path(assets) / name).is_file() else f"{name}.gz" for name in names]
    there = [name for name in packed if (Path(assets) / name).is_file()]
    paths, table = require_assets(assets, there if len(there) == len(names) else names_below(source)), read_table()
    for path, name in zip(paths, packed, strict=True):
        # The table knows one of the two forms; what was unpacked by hand can't be compared.
        known = table.get(name) or table.get(name.removesuffix(".gz"))
        content = path.read_bytes() if name in table else unpack(path) if known else b""
        if known and hashlib.sha256(content).hexdigest() != known.sha256:
            got, remedy = f"other content in {path}", "Move the file away and fetch it again."
            raise SettingError(f"images.source={source}", known.describe(), got, remedy)
    return paths


def read_grey_images(source: str, assets: Path | str, seed: int, variant: str) -> dict[str, GreyImages]:
    """Read the grey shapes of a source, by split (`train`, `test` and, for MNIST, `mnist_test`).

    Args:
        source: A name in `SOURCES`.
        assets: The asset folder.
        seed: Base seed, for sources without a fixed split.
        variant: The bias protocol, which decides MNIST's splits.

    Raises:
        SettingError: If the source is unknown or its files are absent.
    """
    check_choice("images.source", source, SOURCES)
    return SOURCES[source](Path(assets), seed, variant)
