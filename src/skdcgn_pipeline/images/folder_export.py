"""Image sets as folders that `images.source: folder` reads: with their attributes and true masks.

Coloured ones from the command line, here at twice their size:
`python -m skdcgn_pipeline.images.folder_export FOLDER --source fashion_mnist --bias-share 0.95 --image-size 64`.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.images.assets import ASSETS_VARIABLE, DEFAULT_ASSETS
from skdcgn_pipeline.images.grey import CLASS_NAMES
from skdcgn_pipeline.images.image_set import ImageFiles, ImagesInMemory, Split
from skdcgn_pipeline.images.listing import FILE_NAME, MASK_FILE_NAME, MASK_SUFFIX, METADATA
from skdcgn_pipeline.images.recipes import BiasedImagesRecipe
from skdcgn_pipeline.parameters.images import BIASED_SOURCES, BIASES
from skdcgn_pipeline.runtime.errors import SettingError, exit_status
from skdcgn_pipeline.runtime.progress import Progress
from skdcgn_pipeline.samples.encoding import decoding_threads

IMAGES_AT_ONCE = 1024


def export_folder(
    splits: Iterable[Split], class_names: Sequence[str], folder: Path | str, image_size: int | None = None
) -> None:
    """Write splits as `<folder>/<split>/<class>/<image>.png`, with tables of attributes and with masks.

    Splits of the role `auxiliary` have no place there and are left out, as are images of no class.

    Args:
        splits: Of one image set.
        class_names: Name of each class, which become names of folders.
        folder: Where nothing is yet.
        image_size: Height and width, to which the nearest pixels are repeated or left out, so that masks fit; None
            keeps the size.

    Raises:
        SettingError: If there is something in the folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingError(str(folder), "a folder that is empty or absent", "something", "Name another.")
    for split in splits:
        if split.role != "auxiliary":
            _export_split(split, class_names, folder, image_size)


def _export_split(split: Split, class_names: Sequence[str], folder: Path, image_size: int | None) -> None:
    rows = (split.labels >= 0).nonzero()[:, 0]
    names = [f"{class_names[label]}/{row:06}.png" for row, label in zip(rows, split.labels[rows].tolist(), strict=True)]
    pictures = {split.name: split.rows} | ({f"{split.name}{MASK_SUFFIX}": split.masks} if split.masks else {})
    for name, label in ((name, label) for name in pictures for label in split.labels[rows].unique().tolist()):
        (folder / name / class_names[label]).mkdir(parents=True, exist_ok=True)
    columns = {FILE_NAME: names}
    if split.masks:
        columns[MASK_FILE_NAME] = [f"../{split.name}{MASK_SUFFIX}/{name}" for name in names]
    for key, values in split.attributes.items():
        words = split.attribute_names.get(key)
        columns[key] = ["" if v < 0 else words[v] if words else str(v) for v in values[rows].tolist()]
    progress = Progress(f"writing {split.name}", len(rows), "images")
    for part in torch.arange(len(rows)).split(IMAGES_AT_ONCE):
        for name, images in pictures.items():
            paths = [folder / name / names[index] for index in part]
            _write_pictures(images, rows[part], paths, image_size)
        progress.advance(len(part))
    progress.finish()
    with (folder / split.name / METADATA).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _write_pictures(
    images: ImagesInMemory | ImageFiles, rows: Tensor, paths: Sequence[Path], image_size: int | None
) -> None:
    pixels = images.take(rows)
    if image_size is not None:
        pixels = F.interpolate(pixels, size=(image_size, image_size), mode="nearest-exact")
    arrays = pixels.permute(0, 2, 3, 1).squeeze(3).numpy()

    def write(index: int) -> None:
        Image.fromarray(arrays[index]).save(paths[index], compress_level=1)

    with ThreadPoolExecutor(decoding_threads()) as threads:
        list(threads.map(write, range(len(paths))))


def main() -> int:
    """Colour shapes and write them as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write a coloured image set as a folder of images with masks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", choices=BIASED_SOURCES, default="digits")
    parser.add_argument("--variant", choices=BIASES, default="double_colored")
    parser.add_argument("--bias-share", type=float, default=1.0, help="of the training images that follow their class")
    parser.add_argument("--image-size", type=int, help="height and width; default: 32")
    parser.add_argument("--num-images", type=int, help="at most so many images of each split; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--assets", default=os.environ.get(ASSETS_VARIABLE, DEFAULT_ASSETS), help="default: %(default)s"
    )
    options = parser.parse_args()
    if not 0 <= options.bias_share <= 1 or min(options.image_size or 1, options.num_images or 1) < 1:
        parser.error("--bias-share must be from 0 to 1, --image-size and --num-images at least 1")
    recipe = BiasedImagesRecipe(
        options.source, options.variant, options.assets, options.seed, bias_share=options.bias_share
    )

    def export() -> None:
        shapes = recipe.shapes()
        splits = (recipe.colour(name, part[: options.num_images]) for name, part in shapes.items())
        export_folder(splits, CLASS_NAMES[options.source], options.folder, options.image_size)

    return exit_status(export)


if __name__ == "__main__":
    sys.exit(main())
