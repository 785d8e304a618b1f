"""Image sources: grey digits with labels, the same form whatever they come from.

To add a source, write a function that returns `Digits` and name it in `SOURCES` (see CONTRIBUTING).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.images.assets import names_below, require_assets
from skdcgn_pipeline.runtime.errors import check_choice
from skdcgn_pipeline.runtime.seeding import numpy_generator

IMAGE_SIZE = 32
NUM_CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """Grey digits of one split.

    Attributes:
        images: [N, 32, 32] in [0, 1].
        labels: [N], integers.
    """

    images: Tensor
    labels: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Digits:
        return Digits(self.images[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)


def _resize(images: Tensor, mode: str) -> Tensor:
    options = {"align_corners": False} if mode == "bilinear" else {}
    resized = F.interpolate(images[:, None].float(), size=(IMAGE_SIZE, IMAGE_SIZE), mode=mode, **options)
    return resized[:, 0].clamp(0, 1)


def _read_digits(assets: Path, seed: int, variant: str) -> dict[str, Digits]:
    """Read scikit-learn's 1,797 handwritten digits (8 x 8 grey levels), a fixed 80/20 split by the seed."""
    from sklearn.datasets import load_digits  # slow to import and needed by this source alone

    bunch = load_digits()
    images = _resize(torch.from_numpy(bunch.images) / 16.0, "bilinear")
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    order = torch.from_numpy(numpy_generator(seed, "digits-split").permutation(len(labels)))
    num_test = len(labels) // 5
    digits = Digits(images, labels)
    return {"train": digits[order[num_test:]], "test": digits[order[:num_test]]}


def _read_mnist(assets: Path, seed: int, variant: str) -> dict[str, Digits]:
    """Read MNIST.

    The CGN's own test digits of double_colored and wildlife are MNIST train 50,000 to 59,999;
    MNIST's test digits are then a third split, `mnist_test`, that nothing is ever tuned on.
    """
    from torchvision.datasets import MNIST  # slow to import and needed by this source alone

    require_assets(assets, names_below("mnist"))

    def split(train: bool) -> Digits:
        dataset = MNIST(str(assets / "mnist"), train=train, download=False)
        return Digits(_resize(dataset.data / 255.0, "nearest-exact"), dataset.targets)

    train, test = split(True), split(False)
    if variant == "colored":
        return {"train": train, "test": test}
    return {"train": train[slice(0, 50_000)], "test": train[slice(50_000, None)], "mnist_test": test}


SourceReader = Callable[[Path, int, str], dict[str, Digits]]
SOURCES: dict[str, SourceReader] = {"digits": _read_digits, "mnist": _read_mnist}


def read_digits(source: str, assets: Path | str, seed: int, variant: str) -> dict[str, Digits]:
    """Read the digits of a source, by split (`train`, `test` and, for MNIST, `mnist_test`).

    Args:
        source: A name in `SOURCES`.
        assets: The asset folder.
        seed: Base seed, for sources without a fixed split.
        variant: The bias variant, which decides MNIST's splits (see `_read_mnist`).

    Raises:
        SettingError: If the source is unknown or its files are absent.
    """
    check_choice("prepare.source", source, SOURCES)
    return SOURCES[source](Path(assets), seed, variant)
