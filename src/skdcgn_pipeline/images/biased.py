"""The biased datasets of a run: built once, stored as Parquet, read back by split."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, build_artifact
from skdcgn_pipeline.images.bias import BiasedSplit, colour_digits
from skdcgn_pipeline.images.digits import Digits, read_digits
from skdcgn_pipeline.parameters import Prepare
from skdcgn_pipeline.runtime.seeding import numpy_generator
from skdcgn_pipeline.samples.columns import read_columns, write_columns

COLUMNS = ("images", "labels", "foreground_index", "background_index", "collision")
# `train` is biased. `validation` and `randomised` are training-side digits with random colours: the
# first holds digits that `train` has not, for choices; the second has the digits of `train`.
SPLITS = ("train", "randomised", "validation", "test")


class BiasedImages:
    """The splits of a biased dataset.

    Attributes:
        artifact: Where they are stored.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    @property
    def splits(self) -> list[str]:
        """Names of the splits: those of `SPLITS`, and `mnist_test` where there is one."""
        return list(self.artifact.read_json("splits.json"))

    @property
    def reported_splits(self) -> list[str]:
        """Names of the splits that classifiers are measured on."""
        return [name for name in self.splits if name not in ("train", "randomised")]

    def split(self, name: str) -> BiasedSplit:
        """Read one split.

        Raises:
            DamagedFileError: If its file is damaged.
        """
        num_rows = self.artifact.read_json("splits.json")[name]
        columns = read_columns(self.artifact.path(f"{name}.parquet"), COLUMNS, num_rows)
        return BiasedSplit(**{key: torch.from_numpy(values) for key, values in columns.items()})


def _repeat(digits: Digits, copies: int) -> Digits:
    return Digits(digits.images.repeat(copies, 1, 1), digits.labels.repeat(copies))


def build_biased_images(store: Path, assets: str, settings: Prepare, variant: str, seed: int) -> BiasedImages:
    """Build the splits of a biased dataset, or reuse those that are there.

    Every random choice is seeded by its split, so a split does not depend on the others.

    Args:
        store: Directory of biased datasets.
        assets: The asset folder.
        settings: Source, copies and split sizes.
        variant: The bias protocol.
        seed: Base seed.

    Raises:
        SettingError: If assets are absent or too few digits are left for a split.
    """
    options = settings.model_dump(exclude={"feature_network", "given_features"})

    def write(writer: ArtifactWriter) -> None:
        digits = read_digits(settings.source, assets, seed, variant)
        order = torch.from_numpy(numpy_generator(seed, "validation-split").permutation(len(digits["train"])))
        num_validation = max(1, round(settings.validation_fraction * len(order)))
        validation, train = digits["train"][order[:num_validation]], digits["train"][order[num_validation:]]
        parts = {"train": train, "randomised": train, "validation": validation}
        parts |= {name: split for name, split in digits.items() if name != "train"}
        num_rows = {}
        for name, part in parts.items():
            repeated = _repeat(part, settings.copies)
            num_rows[name] = len(repeated)
            if writer.has(f"{name}.parquet"):
                continue
            split = colour_digits(
                repeated,
                variant,
                biased=name == "train",
                generator=numpy_generator(seed, f"colours-{name}"),
                binarise_threshold=settings.binarise_threshold,
                assets=assets,
            )
            columns = {key: values.numpy() for key, values in vars(split).items()}
            writer.write(f"{name}.parquet", partial(write_columns, columns=columns))
        writer.write_json("splits.json", num_rows)

    inputs = {"kind": "biased images", "settings": options, "variant": variant, "seed": seed}
    return BiasedImages(build_artifact(store, inputs, write))
