"""Image folders as people have them: shapes on textures, three classes, PNG and JPEG mixed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle")
GROUNDS = ("dots", "waves")
SIZE = 48


def texture(name: str, generator: np.random.Generator, size: int = SIZE) -> Image.Image:
    """A ground of two random colours."""
    rows, columns = np.mgrid[:size, :size]
    pattern = (np.sin(rows / 3 + columns / 5) > 0) if name == "waves" else ((rows % 8 < 4) & (columns % 8 < 4))
    colours = generator.integers(0, 256, (2, 3), dtype=np.uint8)
    return Image.fromarray(colours[pattern.astype(int)])


def mask_of(label: str, generator: np.random.Generator, size: int = SIZE) -> Image.Image:
    """White shape on black."""
    mask = Image.new("L", (size, size))
    left, top = (int(value) for value in generator.integers(4, 12, 2))
    box = (left, top, left + size // 2, top + size // 2)
    draw = ImageDraw.Draw(mask)
    if label == "circle":
        draw.ellipse(box, fill=255)
    elif label == "square":
        draw.rectangle(box, fill=255)
    else:
        draw.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])], fill=255)
    return mask


def picture(seed: int, width: int = 40, height: int = 34) -> Image.Image:
    """A smooth picture of random colours: JPEG keeps it nearly as it is."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def make_folder(root: Path, splits: dict[str, int], tables: bool = True) -> Path:
    """Make `<root>/<split>/<class>/<number>.png|.jpg` with so many images per class, with masks and a table.

    In `train` a class has its own ground but for the last image; elsewhere grounds take turns.
    """
    for split_number, (split, number) in enumerate(splits.items()):
        rows = []
        for label_number, label in enumerate(CLASSES):
            for index in range(number):
                generator = np.random.default_rng([split_number, label_number, index])
                ground = GROUNDS[(label_number if split == "train" and index < number - 1 else index) % 2]
                mask = mask_of(label, generator)
                name = f"{label}/{index:03}.{'png' if index % 2 else 'jpg'}"
                save(root / split / name, Image.composite(texture("dots", generator), texture(ground, generator), mask))
                mask_name = f"{label}/{index:03}.png"
                save(root / f"{split}_masks" / mask_name, mask)
                rows.append(
                    {"file_name": name, "mask_file_name": f"../{split}_masks/{mask_name}", "background": ground}
                )
        if tables:
            with (root / split / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    return root
