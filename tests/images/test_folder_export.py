"""What is written as a folder is read as the same images, with their masks, classes and attributes."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.images import folder_export
from skdcgn_pipeline.images.folder_export import export_folder
from skdcgn_pipeline.images.grey import CLASS_NAMES
from skdcgn_pipeline.images.listing import list_folder
from skdcgn_pipeline.images.recipes import BiasedImagesRecipe, FolderImagesRecipe
from skdcgn_pipeline.runtime.errors import SettingError

NUM_IMAGES = 100
NAMES = CLASS_NAMES["fashion_mnist"]  # whose alphabet is not their order
RECIPE = BiasedImagesRecipe("digits", "double_colored", bias_share=0.9)


@pytest.fixture(scope="module")
def coloured():
    return {name: RECIPE.colour(name, shapes[:NUM_IMAGES]) for name, shapes in RECIPE.shapes().items()}


@pytest.mark.parametrize("image_size", [32, 64])
def test_a_coloured_set_is_read_as_it_was_written(coloured, tmp_path, image_size):
    export_folder(coloured.values(), NAMES, tmp_path / "clothes", image_size)
    recipe = FolderImagesRecipe(list_folder(tmp_path / "clothes", 0.1, 0), image_size=image_size)
    images = Store(tmp_path / "stores").make(recipe)
    assert images.roles == {"train": "train", "validation": "validation", "test": "test"}
    assert {*images.class_names} == {NAMES[label] for label in coloured["train"].labels.tolist()}
    for name in images.roles:
        ours = coloured[name][
            torch.argsort(
                torch.tensor([images.class_names.index(NAMES[k]) for k in coloured[name].labels.tolist()]), stable=True
            )
        ]
        theirs = images.split(name)
        assert [images.class_names[k] for k in theirs.labels.tolist()] == [NAMES[k] for k in ours.labels.tolist()]
        for before, after in ((ours.images, theirs.images), (ours.masks.images, theirs.masks.images)):
            assert torch.equal(F.interpolate(before, size=(image_size, image_size), mode="nearest-exact"), after)
        for key, values in ours.attributes.items():
            words = ours.attribute_names.get(key)
            read = theirs.attribute_names.get(key)
            told = [read[v] if read else v for v in theirs.attributes[key].tolist()]
            assert told == [words[v] if words else v for v in values.tolist()]


def test_a_folder_with_something_in_it_is_left_alone(coloured, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingError, match="expected a folder that is empty or absent"):
        export_folder(coloured.values(), NAMES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_command_line_writes_a_folder_or_says_why_not(tmp_path, monkeypatch, capsys):
    words = ["folder_export", str(tmp_path / "digits"), "--bias-share", "0.9", "--num-images", "100"]
    monkeypatch.setattr(sys, "argv", words)
    assert folder_export.main() == 0
    splits = {split.name: split for split in list_folder(tmp_path / "digits", 0.1, 0).splits}
    assert {name: len(split) for name, split in splits.items()} == {"train": 100, "validation": 100, "test": 100}
    assert sum("aligned" in name for name in splits["train"].attribute_names["group"]) > 0
    monkeypatch.setattr(sys, "argv", [*words, "--source", "mnist", "--assets", str(tmp_path)])
    assert folder_export.main() == 1
    assert "files missing" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*words, "--bias-share", "2"])
    with pytest.raises(SystemExit):
        folder_export.main()
