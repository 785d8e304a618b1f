"""ImageNet's index tables: the real ones say what is known of them, broken ones are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from images.pictures import picture, save
from skdcgn_pipeline.images.imagenet import (
    CATEGORIES_FILE,
    IN9_FILE,
    IN9_NAMES_FILE,
    WNIDS_FILE,
    ImageNetTables,
    check_imagenet,
    list_cue_conflict,
    list_imagenet,
    list_in9,
    list_wordnet,
    parse_cue_conflict_name,
    read_tables,
    with_array_masks,
)
from skdcgn_pipeline.runtime.errors import SettingError


def test_the_real_tables(assets):
    tables = read_tables(assets)
    assert len(tables.wnids) == 1000
    assert (tables.wnids[0], tables.wnids[999]) == ("n01440764", "n15075141")
    names = "dog bird vehicle reptile carnivore insect instrument primate fish"
    assert " ".join(tables.in9_names) == names
    # Of the 1000 classes 370 are in ImageNet-9, 116 of them dogs.
    in9 = [classes.tolist() for classes in tables.class_groups["in9"]]
    assert [len(classes) for classes in in9] == [116, 52, 42, 36, 35, 27, 26, 20, 16]
    # The chihuahua is a dog; the aeroplane is no vehicle of theirs, which have wheels.
    assert 151 in in9[tables.in9_names.index("dog")]
    assert not any(404 in classes for classes in in9)
    categories = "airplane bear bicycle bird boat bottle car cat chair clock dog elephant keyboard knife oven truck"
    assert " ".join(tables.categories) == categories
    shapes = tables.class_groups["shape"]
    assert sum(len(own) for own in shapes) == 207
    assert shapes[tables.categories.index("cat")].tolist() == [281, 282, 283, 284, 285, 286]


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(SettingError, match=r"imagenet_wnids_sorted\.json, got 4 of 4 files missing"):
        read_tables(tmp_path)


SOUND = {
    WNIDS_FILE: ["n00000001", "n00000002", "n00000003"],
    IN9_FILE: {"2": 1, "0": -1, "1": 0},
    CATEGORIES_FILE: {"cat": [1], "dog": [0, 2]},
}


def write_tables(folder, changes=None):
    for name, payload in (SOUND | (changes or {})).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(payload))
    (folder / IN9_NAMES_FILE).write_text("Dog\nbird and more\n")
    return folder


def test_the_in9_table_is_read_by_class_whatever_its_order(tmp_path):
    tables = read_tables(write_tables(tmp_path))
    assert (tables.in9_names, tables.categories) == (("dog", "bird"), ("cat", "dog"))
    assert [classes.tolist() for classes in tables.class_groups["in9"]] == [[1], [2]]
    assert [classes.tolist() for classes in tables.class_groups["texture"]] == [[1], [0, 2]]


@pytest.mark.parametrize(
    ("name", "payload", "message"),
    [
        (WNIDS_FILE, ["n00000001", "n00000001", "n00000002"], "some of them twice"),
        (WNIDS_FILE, ["dog"], "JSON where 0 is sound, got String should match pattern"),
        (WNIDS_FILE, [], "at least 1 item"),
        (WNIDS_FILE, {"n00000001": 0}, "valid array"),
        (IN9_FILE, {"0": 0, "1": 1}, "all of 3 classes"),
        (IN9_FILE, {"0": 0, "1": 1, "3": 1}, "all of 3 classes"),
        (IN9_FILE, {"0": 0, "1": 1, "2": 2}, "JSON where 2 is sound, got Input should be less than 2"),
        (IN9_FILE, {"0": 0, "1": 1, "2": -2}, "greater than or equal to -1"),
        (IN9_FILE, {"0": 0, "1": 0, "2": 0}, "classes of all 2 groups"),
        (IN9_FILE, {"0": 0, "1": 1, "dog": 0}, "valid integer"),
        (IN9_FILE, [0, 1, 1], "JSON where all is sound"),
        (CATEGORIES_FILE, {"cat": [1], "dog": [3]}, r"JSON where dog\.0 is sound, got Input should be less than 3"),
        (CATEGORIES_FILE, {"cat": [1], "dog": [1, 2]}, r"\[1\] in several"),
        (CATEGORIES_FILE, {"cat": []}, "at least 1 item"),
        (CATEGORIES_FILE, {"cat": 1}, "valid array"),
    ],
)
def test_broken_tables_are_refused(tmp_path, name, payload, message):
    with pytest.raises(SettingError, match=f"{name}: expected .*{message}"):
        read_tables(write_tables(tmp_path, {name: payload}))


def test_a_file_that_is_no_json_is_named(tmp_path):
    (write_tables(tmp_path) / WNIDS_FILE).write_text("n00000001")
    with pytest.raises(SettingError, match=r"imagenet_wnids_sorted\.json: expected JSON where all is sound"):
        read_tables(tmp_path)


# --- folders -------------------------------------------------------------------------------------

WNIDS = ("n00000001", "n00000002", "n00000003")
CATEGORIES = ("bottle", "cat")


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
    return list_wordnet(folder, WNIDS)


def test_images_are_listed_by_name_with_the_class_of_the_table(images):
    assert images.rows.names == (
        *(f"n00000001/deeper/{number}.JPEG" for number in range(3)),
        *(f"n00000003/{number}.png" for number in range(4)),
    )
    # The third WordNet id is class 2, although it is the second folder.
    assert images.labels.tolist() == [0, 0, 0, 2, 2, 2, 2]


def test_folders_that_are_no_class_are_counted_and_the_first_is_named(folder):
    for name in ("n00000009", "cats"):
        save(folder / name / "0.png", picture(0))
    with pytest.raises(SettingError, match=r"named by the 3 WordNet ids.*got 2 of 4 others in .*'cats'"):
        list_wordnet(folder, WNIDS)


def test_missing_classes_are_refused_only_where_all_are_needed(folder):
    with pytest.raises(SettingError, match=r"images of all 3 classes, got none of 1 classes.*'n00000002'"):
        list_wordnet(folder, WNIDS, complete=True)


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(SettingError, match="nothing at"):
        list_wordnet(tmp_path / "nowhere", WNIDS, "ensemble.data")
    (tmp_path / "n00000001").mkdir()
    with pytest.raises(SettingError, match=r"ensemble\.data: expected images in folders"):
        list_wordnet(tmp_path, WNIDS, "ensemble.data")


def test_imagenet9_folders_are_classes_by_number(tmp_path):
    names = ("dog", "bird", "vehicle")
    for root in (tmp_path / "mixed_same" / "val", tmp_path / "plain"):
        for index, folder in enumerate(("00_dog", "01_bird", "02_wheeled vehicle")):
            save(root / folder / "0.png", picture(index))
    for root in (tmp_path / "mixed_same", tmp_path / "plain"):
        split = list_in9(root, names)
        assert split.attributes["in9"].tolist() == [0, 1, 2]
        assert split.attribute_names == {"in9": names}
        assert split.labels.tolist() == [-1] * 3


@pytest.mark.parametrize("name", ["dog", "01_dog", "03_fish", "n02084071"])
def test_other_folders_are_not_of_imagenet9(tmp_path, name):
    save(tmp_path / name / "0.png", picture(0))
    with pytest.raises(SettingError, match=f"00_dog, 01_bird, got '{name}'"):
        list_in9(tmp_path, ("dog", "bird"))


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
    images = list_cue_conflict(tmp_path, CATEGORIES)
    assert images.attributes["shape"].tolist() == [0, 1]
    assert images.attributes["texture"].tolist() == [0, 0]
    assert images.attribute_names["shape"] == CATEGORIES
    save(tmp_path / "cat" / "bottle4-cat2.png", picture(2))
    with pytest.raises(SettingError, match=r"in the folder of their shape, got 'cat/bottle4-cat2\.png'"):
        list_cue_conflict(tmp_path, CATEGORIES)


# --- the backgrounds challenge --------------------------------------------------------------------


@pytest.fixture
def challenge(tmp_path):
    """The archive of ImageNet-9 with one class: two images of 8 x 8 pixels with masks, and one without."""
    for number in range(3):
        save(tmp_path / "original" / "val" / "00_dog" / f"{number}.JPEG", picture(number, 8, 8))
    save(tmp_path / "only_bg_t" / "val" / "00_dog" / "0.JPEG", picture(5, 8, 8))
    masks = tmp_path / "fg_mask" / "val" / "00_dog"
    masks.mkdir(parents=True)
    for number in (0, 2):
        np.save(masks / f"{number}.npy", np.arange(64).reshape(8, 8) < 8 + number)
    return tmp_path


def test_objects_of_the_challenge_are_the_images_with_masks(challenge, tmp_path):
    link = tmp_path / "elsewhere" / "deep" / "linked"
    link.parent.mkdir(parents=True)
    link.symlink_to(challenge / "original", target_is_directory=True)
    for folder in (challenge / "original", link):
        split = with_array_masks(list_in9(folder, ("dog",)), challenge / "fg_mask")
        assert split.rows.names == ("00_dog/0.JPEG", "00_dog/2.JPEG")
        assert split.attributes["in9"].tolist() == [0, 0]
        masks = replace(split.masks, image_size=8).take(torch.tensor([0, 1]))
        assert masks.sum((1, 2, 3)).tolist() == [8 * 255, 10 * 255]


def test_a_folder_without_masks_of_the_images_is_refused(challenge, tmp_path):
    split = list_in9(challenge / "original", ("dog",))
    (tmp_path / "others" / "00_dog").mkdir(parents=True)
    with pytest.raises(SettingError, match=r"masks named as the images, such as 00_dog/0\.npy, got none in .*others"):
        with_array_masks(split, tmp_path / "others")


def test_the_challenge_is_checked_and_listed_with_or_without_the_rest(challenge):
    tables = ImageNetTables(("n00000001",), ("dog",), (), {})
    folders = {"train": None, "backgrounds_challenge": str(challenge)}
    check_imagenet(folders, tables)
    splits = {split.name: split for split in list_imagenet(folders, tables).splits}
    assert {name: len(split) for name, split in splits.items()} == {"imagenet9/original": 2, "imagenet9/only_bg_t": 1}
    assert splits["imagenet9/original"].masks is not None

    # Both settings name the unchanged images; they are read once.
    for part in ("mixed_same", "mixed_rand"):
        save(challenge / part / "00_dog" / "0.png", picture(0))
    both = list_imagenet(folders | {"imagenet9": str(challenge)}, tables)
    assert sorted(split.name for split in both.splits) == sorted(
        f"imagenet9/{part}" for part in ("mixed_same", "mixed_rand", "original", "only_bg_t")
    )
    gap_alone = list_imagenet({"imagenet9": str(challenge)}, tables)
    assert [split.name for split in gap_alone.splits][2:] == ["imagenet9/original"]
    assert gap_alone.splits[2].masks is None


@pytest.mark.parametrize("part", ["original", "only_bg_t", "fg_mask"])
def test_a_part_of_the_challenge_that_is_absent_is_named_before_any_work(challenge, part):
    (challenge / part).rename(challenge / "away")
    where = "original), masks" if part == "fg_mask" else f"{part})"
    with pytest.raises(SettingError, match="backgrounds_challenge") as caught:
        check_imagenet({"backgrounds_challenge": str(challenge)}, ImageNetTables((), ("dog",), (), {}))
    wanted = (
        f"images.folders.backgrounds_challenge ({where}: expected a folder with a folder per class, got nothing at "
    )
    assert str(caught.value).startswith(wanted + str(challenge / part))
