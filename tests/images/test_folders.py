"""Folders of images: listed by name, faults counted and named, decoded as torchvision does, the same in any order."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from skdcgn_pipeline.images import folders as module
from skdcgn_pipeline.images.folders import (
    FolderBatches,
    check_images,
    crop_centre,
    draw_crop,
    draw_from_folder,
    list_cue_conflict_images,
    list_in9_images,
    list_wordnet_images,
    parse_cue_conflict_name,
    to_bytes,
)
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.samples.pixels import from_bytes

WNIDS = ("n00000001", "n00000002", "n00000003")
CATEGORIES = ("bottle", "cat")


def picture(seed: int, width: int = 40, height: int = 34) -> Image.Image:
    """A smooth picture of random colours: JPEG keeps it nearly as it is."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def folder(tmp_path):
    """Two of three classes: four images of the third, three of the first, and files that are no images."""
    root = tmp_path / "images"
    for number in range(4):
        save(root / "n00000003" / f"{number}.png", picture(number))
    for number in range(3):
        save(root / "n00000001" / "deeper" / f"{number}.JPEG", picture(10 + number))
    (root / "README.txt").write_text("files beside the class folders do not count")
    (root / "n00000001" / ".DS_Store").write_text("nor do hidden ones")
    return root


@pytest.fixture
def images(folder):
    return list_wordnet_images(folder, WNIDS)


# --- listing -------------------------------------------------------------------------------------


def test_images_are_listed_by_name_with_the_class_of_the_table(images):
    assert images.names == (
        *(f"n00000001/deeper/{number}.JPEG" for number in range(3)),
        *(f"n00000003/{number}.png" for number in range(4)),
    )
    # The third WordNet id is class 2, although it is the second folder.
    assert images.labels.tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert images.classes.tolist() == [0, 2]


def test_folders_that_are_no_class_are_counted_and_the_first_is_named(folder):
    for name in ("n00000009", "cats"):
        save(folder / name / "0.png", picture(0))
    with pytest.raises(SettingError, match=r"named by the 3 WordNet ids.*got 2 of 4 others in .*'cats'"):
        list_wordnet_images(folder, WNIDS)


def test_missing_classes_are_refused_only_where_all_are_needed(folder):
    with pytest.raises(SettingError, match=r"images of all 3 classes, got none of 1 classes.*'n00000002'"):
        list_wordnet_images(folder, WNIDS, complete=True)


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(SettingError, match="nothing at"):
        list_wordnet_images(tmp_path / "nowhere", WNIDS, "ensemble.data")
    (tmp_path / "n00000001").mkdir()
    with pytest.raises(SettingError, match=r"ensemble\.data: expected images in folders"):
        list_wordnet_images(tmp_path, WNIDS, "ensemble.data")


def test_the_fingerprint_is_of_names_sizes_and_labels_wherever_the_folder_lies(folder, images, tmp_path):
    elsewhere = folder.rename(tmp_path / "elsewhere")
    assert list_wordnet_images(elsewhere, WNIDS).fingerprint == images.fingerprint
    assert list_wordnet_images(elsewhere, (WNIDS[1], WNIDS[0], WNIDS[2])).fingerprint != images.fingerprint
    save(elsewhere / "n00000003" / "3.png", picture(3, 20, 20))
    assert list_wordnet_images(elsewhere, WNIDS).fingerprint != images.fingerprint


def test_imagenet9_folders_are_classes_by_number(tmp_path):
    names = ("dog", "bird", "vehicle")
    for root in (tmp_path / "mixed_same" / "val", tmp_path / "plain"):
        for index, folder in enumerate(("00_dog", "01_bird", "02_wheeled vehicle")):
            save(root / folder / "0.png", picture(index))
    for root in (tmp_path / "mixed_same", tmp_path / "plain"):
        assert list_in9_images(root, names).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["dog", "01_dog", "03_fish", "n02084071"])
def test_other_folders_are_not_of_imagenet9(tmp_path, name):
    save(tmp_path / name / "0.png", picture(0))
    with pytest.raises(SettingError, match=f"00_dog, 01_bird, got '{name}'"):
        list_in9_images(tmp_path, ("dog", "bird"))


def test_a_cue_conflict_name_tells_shape_and_texture():
    assert parse_cue_conflict_name("cat7-bottle2.png", CATEGORIES) == [1, 0]
    assert parse_cue_conflict_name("bottle10-cat12.JPEG", CATEGORIES) == [0, 1]


@pytest.mark.parametrize("name", ["cat7.png", "cat-bottle2.png", "cat7_bottle2.png", "cat7-bottle2", "7-2.png"])
def test_other_names_are_no_cue_conflict(name):
    with pytest.raises(SettingError, match=r"images named like cat7-bottle2\.png"):
        parse_cue_conflict_name(name, CATEGORIES)


def test_an_unknown_category_is_refused_with_the_nearest():
    with pytest.raises(SettingError, match=r"'cats' in 'cats7-bottle2\.png'. Did you mean 'cat'"):
        parse_cue_conflict_name("cats7-bottle2.png", CATEGORIES)


def test_cue_conflict_images_have_two_labels(tmp_path):
    save(tmp_path / "cat" / "cat7-bottle2.png", picture(0))
    save(tmp_path / "bottle" / "bottle1-bottle3.png", picture(1))
    images = list_cue_conflict_images(tmp_path, CATEGORIES)
    assert images.labels.tolist() == [[0, 0], [1, 0]]
    save(tmp_path / "cat" / "bottle4-cat2.png", picture(2))
    with pytest.raises(SettingError, match=r"in the folder of their shape, got 'cat/bottle4-cat2\.png'"):
        list_cue_conflict_images(tmp_path, CATEGORIES)


# --- checking ------------------------------------------------------------------------------------


@pytest.fixture
def faulty(folder):
    """The folder with a truncated JPEG, a text file, a grey, a CMYK and a 16-bit image."""
    path = folder / "n00000001" / "truncated.JPEG"
    picture(20, 200, 200).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    (folder / "n00000001" / "text.jpg").write_text("no image")
    picture(21).convert("L").save(folder / "n00000003" / "grey.png")
    picture(22).convert("CMYK").save(folder / "n00000003" / "print.jpg")
    Image.fromarray(np.zeros((34, 40), np.uint16)).save(folder / "n00000003" / "deep.png")
    return list_wordnet_images(folder, WNIDS)


def test_a_sound_folder_is_left_as_it_is(images):
    assert check_images(images) is images


def test_unreadable_images_are_counted_and_named(faulty):
    with pytest.raises(SettingError, match=r"got 3 \(n00000001/text\.jpg .*n00000001/truncated\.JPEG .*of 12") as error:
        check_images(faulty, setting="ensemble.train")
    assert "n00000003/deep.png (pixels of mode I;16" in str(error.value)
    assert "skip_unreadable" in str(error.value)


def test_images_that_are_not_rgb_are_counted_and_named(faulty):
    with pytest.raises(SettingError, match=r"got 2 \(n00000003/grey\.png \(L\), n00000003/print\.jpg \(CMYK\)\) of 12"):
        check_images(faulty, skip_unreadable=True)


def test_faulty_images_are_skipped_only_if_asked(faulty, caplog):
    with caplog.at_level(logging.WARNING):
        left = check_images(faulty, skip_unreadable=True, non_rgb="skip")
    assert len(left) == 7
    assert left.labels.tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert [*left.skipped] == [
        "n00000001/text.jpg",
        "n00000001/truncated.JPEG",
        "n00000003/deep.png",
        "n00000003/grey.png",
        "n00000003/print.jpg",
    ]
    assert "unreadable images are left out: 3 (n00000001/text.jpg" in caplog.text
    assert left.fingerprint != faulty.fingerprint


def test_images_that_are_not_rgb_are_converted_if_asked(faulty, caplog):
    with caplog.at_level(logging.WARNING):
        left = check_images(faulty, skip_unreadable=True, non_rgb="convert")
    assert len(left) == 9
    assert "non-RGB images are converted: 2" in caplog.text
    batch, _ = next(iter(FolderBatches(left, 16, 20)))
    grey = batch[left.names.index("n00000003/grey.png")]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[1], grey[2])


def test_mixed_sizes_are_refused_where_images_are_not_resized(folder, images):
    with pytest.raises(SettingError, match=r"images of 34 x 34.*got 7 \(.*\(40 x 34\).*\.\.\.\) of 7"):
        check_images(images, expected_size=34)
    for name in images.names:
        save(folder / name, picture(0, 34, 34))
    save(folder / images.names[2], picture(0, 34, 35))
    with pytest.raises(SettingError, match=r"got 1 \(n00000001/deeper/2.JPEG \(34 x 35\)\) of 7"):
        check_images(images, expected_size=34)


def test_a_folder_without_a_usable_image_is_refused(tmp_path):
    (tmp_path / "n00000001").mkdir()
    (tmp_path / "n00000001" / "a.jpg").write_text("")
    with pytest.raises(SettingError, match="at least one usable image"):
        check_images(list_wordnet_images(tmp_path, WNIDS), skip_unreadable=True)


def test_a_folder_is_read_once_where_faults_are_kept(faulty, tmp_path, monkeypatch):
    first = check_images(faulty, True, "skip", store=tmp_path / "store")
    monkeypatch.setattr(module, "find_faults", lambda *args: pytest.fail("read again"))
    again = check_images(faulty, True, "skip", store=tmp_path / "store")
    assert (again.names, again.skipped) == (first.names, first.skipped)
    # Other settings judge the same faults.
    with pytest.raises(SettingError, match=r"got 3 .*unreadable"):
        check_images(faulty, store=tmp_path / "store")
    json.dumps(dict(again.skipped))


def test_checking_stops_when_asked(images, monkeypatch):
    monkeypatch.setattr(module, "IMAGES_PER_CHECK", 2)
    progress.request_stop()
    with pytest.raises(InterruptedRunError, match="2 of 7 images"):
        check_images(images)


def test_an_unknown_treatment_is_refused(images):
    with pytest.raises(SettingError, match="one of refuse, skip, convert"):
        check_images(images, non_rgb="keep")


# --- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 34), (33, 60), (24, 24), (300, 24), (41, 41)])
@pytest.mark.parametrize("image_size", [21, 24])
def test_the_middle_is_that_of_torchvision(size, image_size):
    image = picture(0, *size)
    reference = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(image_size), transforms.PILToTensor()])
    assert torch.equal(to_bytes(crop_centre(image, image_size, 24)), reference(image))


def test_an_image_smaller_than_the_crop_is_refused():
    with pytest.raises(SettingError, match="resize: expected at least 30 x 30, got 40 x 20"):
        crop_centre(picture(0, 40, 20), 30, None)


@pytest.mark.parametrize(("height", "width"), [(34, 40), (200, 150), (30, 300), (300, 30), (1, 1)])
def test_random_crops_are_within_the_image_and_its_ranges(height, width):
    generator = np.random.default_rng(0)
    crops = np.array([draw_crop(height, width, generator) for _ in range(500)])
    top, left, crop_height, crop_width = crops.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + crop_height <= height).all()
    assert (left + crop_width <= width).all()


def test_random_crops_are_spread_as_those_of_torchvision():
    height, width = 200, 220
    generator = np.random.default_rng(0)
    ours = np.array([draw_crop(height, width, generator) for _ in range(2000)])
    image = torch.zeros(3, height, width)
    torch.manual_seed(0)
    parameters = transforms.RandomResizedCrop.get_params
    theirs = np.array([parameters(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)])
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=4)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=3)
    for own in (ours, theirs):
        top, left, crop_height, crop_width = own.T
        assert (crop_height * crop_width).min() / (height * width) == pytest.approx(0.08, abs=0.01)
        assert (crop_width / crop_height).min() == pytest.approx(3 / 4, abs=0.02)
        assert (crop_width / crop_height).max() == pytest.approx(4 / 3, abs=0.02)
        assert top.min() == left.min() == 0
        assert (left + crop_width).max() == width


def test_an_extreme_shape_gives_its_middle():
    assert draw_crop(20, 1000, np.random.default_rng(0)) == (0, 486, 20, 27)
    assert draw_crop(1000, 30, np.random.default_rng(0)) == (480, 0, 40, 30)


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 3])
def test_batches_are_all_images_in_order(folder, images, num_threads):
    batches = FolderBatches(images, 16, 20, batch_size=3, num_threads=num_threads)
    assert len(batches) == 3
    for _ in range(2):
        found = [*batches]
        assert [len(labels) for _, labels in found] == [3, 3, 1]
        assert torch.cat([labels for _, labels in found]).tolist() == [0, 0, 0, 2, 2, 2, 2]
    for row, image in enumerate(torch.cat([batch for batch, _ in found])):
        expected = to_bytes(crop_centre(Image.open(folder / images.names[row]).convert("RGB"), 16, 20))
        assert torch.equal(image, from_bytes(expected))


def test_batches_may_be_left_early_and_stop_when_asked(images):
    batches = FolderBatches(images, 16, 20, batch_size=2)
    assert len(next(iter(batches))[0]) == 2
    progress.request_stop()
    with pytest.raises(InterruptedRunError, match="2 of 7 images"):
        list(batches)


def test_an_image_that_broke_after_the_check_is_named(folder, images):
    (folder / images.names[1]).write_text("broken")
    with pytest.raises(SettingError, match=r"deeper/1\.JPEG: expected a readable image"):
        [*FolderBatches(images, 16, 20)]


def steps(draw, *numbers: int):
    return [draw(number, 3) for number in numbers]


def assert_same(first, second) -> None:
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_draws_depend_on_the_step_alone(images):
    whole = steps(draw_from_folder(images, 16, 0, "real", num_threads=1), 0, 1, 2, 3, 4)
    assert_same(steps(draw_from_folder(images, 16, 0, "real", num_threads=4), 3, 4), whole[3:])
    assert whole[0][0].shape == (3, 3, 16, 16)
    assert whole[0][0].min() >= -1
    assert whole[0][0].max() <= 1


def test_every_epoch_has_every_image_in_another_order_and_crop(images):
    draw = draw_from_folder(images, 16, 0, "real")
    first, second = draw(0, 7), draw(1, 7)
    assert first[1].bincount().tolist() == second[1].bincount().tolist() == [3, 0, 4]
    sampler = module.EpochSampler(7, 0, "real")
    orders = [sampler.rows(step, 7) for step in (0, 1)]
    assert not torch.equal(*orders)
    of_row = [batch[0][order.argsort()] for batch, order in zip((first, second), orders, strict=True)]
    for row in range(7):
        assert not torch.equal(of_row[0][row], of_row[1][row])


def test_an_epoch_within_a_batch_has_its_own_crops(images):
    """Rows of the second epoch are the same whether a batch begins before or with it."""
    draw = draw_from_folder(images, 16, 0, "real")
    whole = torch.cat([draw(step, 7)[0] for step in range(2)])
    parts = torch.cat([draw(step, 2)[0] for step in range(7)])
    assert torch.equal(whole, parts)


def test_seed_and_purpose_change_the_draws(images):
    first = draw_from_folder(images, 16, 0, "real")(0, 7)[0]
    assert not torch.equal(draw_from_folder(images, 16, 1, "real")(0, 7)[0], first)
    assert not torch.equal(draw_from_folder(images, 16, 0, "other")(0, 7)[0], first)


def test_without_augmentation_the_middle_is_drawn(images):
    drawn, _ = draw_from_folder(images, 16, 0, "real", augment=False)(0, 7)
    rows = module.EpochSampler(7, 0, "real").rows(0, 7)
    middle, _ = next(iter(FolderBatches(images, 16, 16)))
    assert torch.equal(drawn, middle[rows])
