"""Image sets of folders: read once, stored decoded or by file, the same images either way."""

from __future__ import annotations

import logging

import pytest
import torch

from images.pictures import CLASSES, make_folder, picture, save
from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.images.batches import batches_in_order, draw_crops_from_split, draw_from_split
from skdcgn_pipeline.images.listing import list_folder
from skdcgn_pipeline.images.recipes import FolderImagesRecipe
from skdcgn_pipeline.images.stored import ImageFiles, StoredImages
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import DamagedFileError, InterruptedRunError, SettingError
from skdcgn_pipeline.samples.pixels import from_bytes


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "shapes", {"train": 4, "validation": 1, "test": 2})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "stores")


def recipe_of(folder, **options) -> FolderImagesRecipe:
    return FolderImagesRecipe(list_folder(folder, 0.1, 0), **{"image_size": 32, **options})


def test_a_folder_becomes_an_image_set(folder, store):
    images = store.make(recipe_of(folder))
    assert (images.name, images.image_size, images.class_names) == ("shapes", 32, CLASSES)
    assert images.roles == {"train": "train", "validation": "validation", "test": "test"}
    assert images.reported_splits == ["validation", "test"]
    test = images.split("test")
    assert test.images.shape == (6, 3, 32, 32)
    assert test.images.dtype == torch.uint8
    assert test.masks.images.shape == (6, 1, 32, 32)
    assert test.attributes["background"].tolist() == [0, 1] * 3
    assert test.groups.tolist() == [0, 1, 2, 3, 4, 5]
    assert test.group_name(3, images.class_names) == "square on waves"
    assert not test.collision.any()
    assert test[2:4].labels.tolist() == [1, 1]
    assert torch.equal(test[2:4].masks.images, test.masks.images[2:4])


def test_it_is_read_once_and_again_where_it_changed(folder, store, monkeypatch):
    first = store.make(recipe_of(folder))
    with monkeypatch.context() as patch:
        patch.setattr(FolderImagesRecipe, "build", lambda *_: pytest.fail("read again"))
        assert store.make(recipe_of(folder)).fingerprint == first.fingerprint
    assert store.make(recipe_of(folder, image_size=16)).fingerprint != first.fingerprint
    save(folder / "test" / "circle" / "000.jpg", picture(9))
    with pytest.raises(SettingError, match=r"000\.jpg \(its mask has 48 x 48 pixels instead of 40 x 34\)\) of 6"):
        store.make(recipe_of(folder))


def test_images_that_stay_files_are_the_same(folder, store):
    decoded, files = store.make(recipe_of(folder)), store.make(recipe_of(folder, keep_files=True))
    assert decoded.fingerprint != files.fingerprint
    for name in decoded.roles:
        ours, theirs = decoded.split(name), files.split(name)
        assert isinstance(theirs.rows, ImageFiles)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.masks.images, theirs.masks.take(torch.arange(len(theirs))))
        assert torch.equal(ours.labels, theirs.labels)


def test_unreadable_files_are_refused_by_name_or_left_out(folder, store, caplog):
    (folder / "test" / "circle" / "000.jpg").write_text("broken")
    with pytest.raises(SettingError, match=r"readable images, got 1 \(circle/000\.jpg \(Unident.*\) of 6") as error:
        store.make(recipe_of(folder))
    assert "skip_unreadable" in str(error.value)
    with caplog.at_level(logging.WARNING):
        test = store.make(recipe_of(folder, skip_unreadable=True)).split("test")
    assert "1 unreadable images are left out: circle/000.jpg" in caplog.text
    assert test.labels.tolist() == [0, 1, 1, 2, 2]
    assert len(test.masks) == 5
    for path in (folder / "test").rglob("0*.*"):
        path.write_text("broken")
    with pytest.raises(SettingError, match="at least one usable image"):
        store.make(recipe_of(folder, skip_unreadable=True))


def test_a_file_that_broke_after_the_check_is_named(folder, store):
    test = store.make(recipe_of(folder, keep_files=True)).split("test")
    (folder / "test" / "circle" / "001.png").write_text("broken")
    with pytest.raises(SettingError, match=r"circle/001\.png: expected a readable picture"):
        list(batches_in_order(test, 4))


def test_reading_stops_when_asked_and_goes_on(folder, store, monkeypatch):
    monkeypatch.setattr("skdcgn_pipeline.images.recipes.IMAGES_PER_CHECK", 4)
    progress.request_stop()
    with pytest.raises(InterruptedRunError, match="4 of 12 images"):
        store.make(recipe_of(folder))
    progress.clear_stop()
    assert len(store.make(recipe_of(folder)).split("train")) == 12


def test_a_damaged_file_is_told_and_made_again(folder, store):
    images = store.make(recipe_of(folder))
    path = images.artifact.path("splits/test/rows.parquet")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedFileError, match=r"rows\.parquet"):
        images.split("test")
    assert isinstance(store.make(recipe_of(folder)), StoredImages)
    assert len(images.split("test")) == 6


# --- batches -------------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["files", "decoded"])
def train(folder, store, request):
    return store.make(recipe_of(folder, keep_files=request.param)).split("train")


def assert_same(first, second) -> None:
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_batches_in_order_are_all_images(train):
    batches = list(batches_in_order(train, 5))
    assert [len(labels) for _, labels in batches] == [5, 5, 2]
    assert torch.equal(torch.cat([images for images, _ in batches]), from_bytes(train.images))
    assert torch.equal(torch.cat([labels for _, labels in batches]), train.labels)
    progress.request_stop()
    with pytest.raises(InterruptedRunError, match="5 of 12 images"):
        list(batches_in_order(train, 5))


@pytest.mark.parametrize("draws", [draw_from_split, lambda split, *seed: draw_crops_from_split(split, 16, *seed)])
def test_draws_depend_on_seed_purpose_and_step_alone(train, draws):
    whole = [draws(train, 0, "real")(step, 3) for step in range(5)]
    draw = draws(train, 0, "real")
    assert_same([draw(3, 3), draw(4, 3)], whole[3:])
    assert whole[0][0].min() >= -1
    assert whole[0][0].max() <= 1
    assert not torch.equal(draws(train, 1, "real")(0, 3)[0], whole[0][0])
    assert not torch.equal(draws(train, 0, "other")(0, 3)[0], whole[0][0])


def test_every_epoch_has_every_image_in_another_order_and_crop(train):
    draw = draw_crops_from_split(train, 16, 0, "real")
    first, second = draw(0, 12), draw(1, 12)
    assert first[1].bincount().tolist() == second[1].bincount().tolist() == [4, 4, 4]
    assert not torch.equal(first[1], second[1])
    assert first[0].shape == (12, 3, 16, 16)


def test_an_epoch_within_a_batch_of_files_has_its_own_crops(folder, store):
    """Rows of the second epoch are the same whether a batch begins before or with it."""
    train = store.make(recipe_of(folder, keep_files=True)).split("train")
    draw = draw_crops_from_split(train, 16, 0, "real")
    whole = torch.cat([draw(step, 12)[0] for step in range(2)])
    parts = torch.cat([draw(step, 4)[0] for step in range(6)])
    assert torch.equal(whole, parts)
