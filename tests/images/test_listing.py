"""Any folder of images: classes, splits, attributes and masks by name, and what is no image is left out or refused."""

from __future__ import annotations

import logging
import unicodedata

import pytest
import torch

from images.pictures import CLASSES, make_folder, picture, save
from skdcgn_pipeline.images.listing import list_folder
from skdcgn_pipeline.runtime.errors import SettingError


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "shapes", {"train": 6, "validation": 2, "test": 4, "sketches": 2})


def listed(folder, seed: int = 0):
    return list_folder(folder, 0.25, seed)


def split_of(images, name: str):
    return next(split for split in images.splits if split.name == name)


def test_splits_have_roles_by_their_names(folder):
    images = listed(folder)
    assert images.name == "shapes"
    assert images.class_names == CLASSES
    assert [(split.name, split.role, len(split)) for split in images.splits] == [
        ("train", "train", 18),
        ("validation", "validation", 6),
        ("sketches", "test", 6),
        ("test", "test", 12),
    ]
    test = split_of(images, "test")
    assert test.rows.names[:2] == ("circle/000.jpg", "circle/001.png")
    assert test.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("name", ["val", "valid"])
def test_other_names_of_validation_are_known(folder, name):
    (folder / "validation").rename(folder / name)
    split = split_of(listed(folder), "validation")
    assert (split.role, split.rows.root.name) == ("validation", name)


def test_without_validation_a_seeded_part_of_train_takes_its_place(tmp_path):
    folder = make_folder(tmp_path / "shapes", {"train": 6, "test": 1}, tables=False)
    first, again, other = listed(folder), listed(folder), listed(folder, seed=1)
    parts = [split_of(first, name) for name in ("train", "validation")]
    assert [len(part) for part in parts] == [14, 4]
    assert not {*parts[0].rows.names} & {*parts[1].rows.names}
    assert split_of(again, "validation").rows.names == parts[1].rows.names
    assert split_of(other, "validation").rows.names != parts[1].rows.names


def test_columns_become_attributes_with_the_same_numbers_in_every_split(folder):
    for split in listed(folder).splits:
        assert split.attribute_names == {"background": ("dots", "waves")}
    test = split_of(listed(folder), "test")
    assert test.attributes["background"].tolist() == [0, 1] * 6


def test_whole_numbers_stay_as_they_are_and_what_is_not_known_is_minus_one(tmp_path):
    folder = make_folder(tmp_path / "shapes", {"train": 2, "test": 1}, tables=False)
    (folder / "test" / "metadata.csv").write_text("file_name,group\ncircle/000.jpg,7\nsquare\\000.jpg,\n", "utf-8-sig")
    test = split_of(listed(folder), "test")
    assert test.attributes["group"].tolist() == [7, -1, -1]
    assert test.attribute_names == {}


def test_masks_are_found_below_the_split_and_below_the_folder(folder, tmp_path):
    masks = split_of(listed(folder), "test").masks
    assert masks.names[1] == "../test_masks/circle/001.png"
    other = make_folder(tmp_path / "other", {"train": 2}, tables=False)
    (other / "train_masks").rename(other / "cut-outs")
    rows = [
        f"{label}/{n:03}.{e},cut-outs/{label}/{n:03}.png" for label in CLASSES for n, e in enumerate(["jpg", "png"])
    ]
    (other / "train" / "metadata.csv").write_text("file_name,mask_file_name\n" + "\n".join(rows))
    images = listed(other)
    assert [split.name for split in images.splits] == ["train", "validation"]
    assert all(len(split.masks) == len(split) for split in images.splits)


def test_masks_are_found_where_the_folder_is_a_link(folder, tmp_path):
    link = tmp_path / "link"
    (tmp_path / "a" / "b").mkdir(parents=True)
    moved = folder.rename(tmp_path / "a" / "b" / "moved")
    link.symlink_to(moved, target_is_directory=True)
    masks = split_of(listed(link), "test").masks
    assert all((masks.root / name).is_file() for name in masks.names)


def test_masks_among_the_images_are_no_images(tmp_path):
    folder = make_folder(tmp_path / "shapes", {"train": 2}, tables=False)
    for label in CLASSES:
        save(folder / "train" / label / "000_mask.png", picture(0))
    rows = [f"{label}/000.jpg,{label}/000_mask.png" for label in CLASSES]
    (folder / "train" / "metadata.csv").write_text("file_name,mask_file_name\n" + "\n".join(rows))
    assert sum(len(split) for split in listed(folder).splits) == 6


def test_what_systems_leave_is_no_image_and_other_files_are_told(folder, caplog):
    before = listed(folder)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.jpg", "notes.txt"):
        (folder / "train" / "circle" / name).write_text("nothing")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "__MACOSX" / "train").mkdir(parents=True)
    (folder / "train" / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        assert listed(folder).fingerprint == before.fingerprint
    assert "1 files are no images by their names and left out: circle/notes.txt" in caplog.text
    assert "class folders without an image are left out: empty" in caplog.text


def test_endings_in_upper_case_names_in_any_script_and_links_are_images(folder):
    for label in ("circle", "квадрат"):
        save(folder / "train" / label / "ÜBER 鳥.PNG", picture(1))
    save(folder / "elsewhere.JPEG", picture(2))
    (folder / "train" / "square" / "link.jpeg").symlink_to(folder / "elsewhere.JPEG")
    (folder / "train" / "square" / "again").symlink_to(folder / "train" / "square", target_is_directory=True)
    images = listed(folder)
    assert images.class_names == (*CLASSES, "квадрат")
    names = split_of(images, "train").rows.names
    assert {"circle/ÜBER 鳥.PNG", "square/link.jpeg", "квадрат/ÜBER 鳥.PNG"} <= {*names}
    assert len(names) == 21


def test_letters_composed_otherwise_are_the_same_name(tmp_path):
    folder = make_folder(tmp_path / "shapes", {"train": 1}, tables=False)
    save(folder / "train" / "circle" / unicodedata.normalize("NFD", "ü.png"), picture(0))
    table = "file_name,background\n" + unicodedata.normalize("NFC", "circle/ü.png") + ",dots\n"
    (folder / "train" / "metadata.csv").write_text(table, encoding="utf-8")
    assert sum((split.attributes["background"] == 0).sum() for split in listed(folder).splits) == 1


def test_the_fingerprint_is_of_content_wherever_the_folder_lies(folder, tmp_path):
    before = listed(folder).fingerprint
    folder = folder.rename(tmp_path / "elsewhere")
    assert listed(folder).fingerprint == before
    path = folder / "test_masks" / "circle" / "000.png"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert listed(folder).fingerprint != before


def test_a_folder_without_train_or_with_one_class_is_refused(folder):
    with pytest.raises(SettingError, match=r"/train/<class>/<image>, got no 'train' but circle, square, triangle"):
        listed(folder / "test")
    with pytest.raises(SettingError, match=r"images\.folder: expected a folder with a folder per class, got nothing"):
        listed(folder / "nowhere")
    for label in CLASSES[1:]:
        for path in (folder / "train" / label).iterdir():
            path.unlink()
    (folder / "train" / "metadata.csv").unlink()
    with pytest.raises(SettingError, match="at least two classes, got circle"):
        listed(folder)


def test_a_class_that_train_lacks_is_refused_with_the_nearest(folder):
    save(folder / "test" / "circles" / "0.png", picture(0))
    with pytest.raises(SettingError, match=r"a class of 'train', got the folder 'circles' in .*Did you mean 'circle'"):
        listed(folder)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("name\n0.png\n", "a column file_name, got name"),
        ("", "a column file_name, got nothing"),
        ("file_name,group\ncircle/000.jpg,1,2\n", "2 columns, got 3 for 'circle/000.jpg'"),
        ("file_name,group,group\ncircle/000.jpg,1,2\n", "columns of different names"),
        ("file_name\ntrain/circle/000.jpg\n", "got 1 that are not there: train/circle/000.jpg"),
        ("file_name\ncircle/000.jpg\ncircle/000.jpg\n", "'circle/000.jpg' twice"),
        ("file_name\ncircle/x.jpg\n", "got 1 that are not there: circle/x.jpg"),
        ("file_name,mask_file_name\ncircle/000.jpg,x.png\n", "masks that are there, got no 'x.png'"),
        ("file_name,group\ncircle/000.jpg,\0\n", "a table in UTF-8, got a NUL"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_name(folder, table, told):
    (folder / "test" / "metadata.csv").write_text(table)
    with pytest.raises(SettingError, match=f"test/metadata.csv: .*{told}"):
        listed(folder)


def test_a_folder_in_the_place_of_a_table_is_refused(folder):
    (folder / "test" / "metadata.csv").unlink(missing_ok=True)
    (folder / "test" / "metadata.csv").mkdir()
    with pytest.raises(SettingError, match=r"test/metadata\.csv: expected a table in UTF-8"):
        listed(folder)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_are_read_as_spreadsheets_write_them(tmp_path, end, delimiter, encoding):
    folder = make_folder(tmp_path / "shapes", {"train": 1, "test": 1}, tables=False)
    rows = [("file_name", "background", "group"), (r"circle\000.jpg", '"the, sea; 5\'"', "9" * 30)]
    rows.append(("./square/000.jpg", "land", "0"))
    (folder / "test" / "metadata.csv").write_text(end.join(map(delimiter.join, rows)) + end, encoding, newline="")
    test = split_of(listed(folder), "test")
    assert test.attribute_names == {"background": ("land", "the, sea; 5'"), "group": ("0", "9" * 30)}
    assert test.attributes["background"].tolist() == [1, 0, -1]


def test_a_table_beside_the_splits_is_of_all_of_them(folder, caplog):
    for split in ("train", "validation", "test"):
        (folder / split / "metadata.csv").unlink()
    (folder / "metadata.csv").write_text("file_name,place\ntest/circle/001.png,sea\ntrain/square/000.jpg,land\n")
    images = listed(folder)
    assert split_of(images, "test").attributes["place"].tolist()[:3] == [-1, 1, -1]
    assert split_of(images, "sketches").attribute_names["background"] == ("dots", "waves")
    (folder / "metadata.csv").write_text("file_name,place\ncircle/001.png,sea\n")
    with pytest.raises(SettingError, match=r"metadata\.csv: expected files as <split>/<class>/<image> or in"):
        listed(folder)


def test_classes_of_one_image_stay_in_train(tmp_path, caplog):
    folder = make_folder(tmp_path / "shapes", {"train": 1}, tables=False)
    images = listed(folder)
    assert split_of(images, "train").labels.tolist() == split_of(images, "validation").labels.tolist() == [0, 1, 2]
    assert "no class has a second image for choices" in caplog.text
    save(folder / "train" / "square" / "1.png", picture(1))
    images = listed(folder)
    assert split_of(images, "train").labels.tolist() == [0, 1, 2]
    assert split_of(images, "validation").labels.tolist() == [1]
    assert [split.role for split in images.splits] == ["train", "validation"]  # no test folder is needed


def test_files_beside_the_class_folders_are_told(folder, caplog):
    save(folder / "train" / "0.png", picture(0))
    (folder / "train" / "metadata.jsonl").write_text("{}")
    before = len(split_of(listed(folder), "train"))
    assert "2 files beside the class folders are left out: 0.png, metadata.jsonl" in caplog.text
    save(folder / "train" / "circle" / "deep er" / 'it\'s "mine".png', picture(0))
    assert len(split_of(listed(folder), "train")) == before + 1


def test_photos_are_four_classes_on_four_grounds(assets):
    if not (assets / "photos").is_dir():
        pytest.skip("needs ../shared/data/photos, which is absent")
    images = list_folder(assets / "photos", 0.1, 0)
    assert images.class_names == ("bird", "fruit", "mammal", "vegetable")
    assert {split.name: len(split) for split in images.splits} == {"train": 1600, "validation": 200, "test": 800}
    train, test = (split_of(images, name) for name in ("train", "test"))
    assert train.attribute_names["background"] == ("aqua", "dune", "greenmeadow", "wood")
    pairs = torch.stack([train.labels, train.attributes["background"]])
    assert pairs.unique(dim=1, return_counts=True)[1].max() > 300
    assert len(test.masks) == 800
