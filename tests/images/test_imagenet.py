"""ImageNet's index tables: the real ones say what is known of them, broken ones are refused."""

from __future__ import annotations

import json

import pytest
import torch

from skdcgn_pipeline.images.imagenet import read_categories, read_in9, read_tables, read_wnids
from skdcgn_pipeline.runtime.errors import SettingError


def write(path, payload):
    path.write_text(json.dumps(payload))
    return path


def test_the_real_tables(assets):
    tables = read_tables(assets)
    assert tables.num_classes == 1000
    assert (tables.wnids[0], tables.wnids[999]) == ("n01440764", "n15075141")
    names = "dog bird vehicle reptile carnivore insect instrument primate fish"
    assert " ".join(tables.in9_names) == names
    # Of the 1000 classes 370 are in ImageNet-9, 116 of them dogs.
    assert torch.bincount(tables.in9_of_class + 1).tolist() == [630, 116, 52, 42, 36, 35, 27, 26, 20, 16]
    # The chihuahua is a dog; the aeroplane is no vehicle of theirs, which have wheels.
    assert tables.in9_of_class[151] == tables.in9_names.index("dog")
    assert tables.in9_of_class[404] == -1
    categories = "airplane bear bicycle bird boat bottle car cat chair clock dog elephant keyboard knife oven truck"
    assert " ".join(tables.categories) == categories
    assert sum(len(own) for own in tables.categories.values()) == 207
    assert tables.categories["cat"].tolist() == [281, 282, 283, 284, 285, 286]


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(SettingError, match=r"imagenet_wnids_sorted\.json, got 4 of 4 files missing"):
        read_tables(tmp_path)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (["n00000001", "n00000001"], "some of them twice"),
        (["dog"], "a list of WordNet ids"),
        ([], "a list of WordNet ids"),
        ({"n00000001": 0}, "a list of WordNet ids"),
    ],
)
def test_other_lists_are_no_wordnet_ids(tmp_path, payload, message):
    with pytest.raises(SettingError, match=message):
        read_wnids(write(tmp_path / "wnids.json", payload))


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "wnids.json").write_text("n00000001")
    with pytest.raises(SettingError, match=r"wnids\.json: expected JSON"):
        read_wnids(tmp_path / "wnids.json")


def test_the_in9_table_is_read_by_class_whatever_its_order(tmp_path):
    path = write(tmp_path / "in9.json", {"2": 1, "0": -1, "1": 0})
    assert read_in9(path, 3, 2).tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"0": 0, "1": 1}, "all of 3 classes, got 1 missing"),
        ({"0": 0, "1": 1, "3": 1}, "class indices from 0 to 2, got 3"),
        ({"0": 0, "1": 1, "2": 2}, "class indices from 0 to 1, got 2"),
        ({"0": 0, "1": 1, "2": -2}, "class indices from 0 to 1, got -2"),
        ({"0": 0, "1": 1, "2": True}, "got True"),
        ({"0": 0, "1": 0, "2": 0}, "classes of all 2 groups"),
        ({"0": 0, "1": 1, "dog": 0}, "got 'dog'"),
        ([0, 1, 1], "an object of class indices, got list"),
    ],
)
def test_broken_in9_tables_are_refused(tmp_path, payload, message):
    with pytest.raises(SettingError, match=message):
        read_in9(write(tmp_path / "in9.json", payload), 3, 2)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"cat": [1], "dog": [3]}, "class indices from 0 to 2, got 3"),
        ({"cat": [1], "dog": [1, 2]}, r"\[1\] in several"),
        ({"cat": []}, "a list of classes for each category"),
        ({"cat": 1}, "a list of classes for each category"),
    ],
)
def test_broken_categories_are_refused(tmp_path, payload, message):
    with pytest.raises(SettingError, match=message):
        read_categories(write(tmp_path / "categories.json", payload), 3)
