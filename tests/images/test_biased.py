"""The stored biased datasets: which splits there are and what they depend on."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import ClassifierFit, Prepare
from tiny import build_biased_images

SETTINGS = Prepare(copies=1, binarise_threshold=0.4, feature_network=ClassifierFit(num_images=1))


@pytest.fixture(scope="module")
def biased_images(tmp_path_factory) -> StoredImages:
    return build_biased_images(tmp_path_factory.mktemp("images"), "absent", SETTINGS, "double_colored", 0)


def test_splits_have_the_sizes_asked_for(biased_images):
    assert {name: len(biased_images.split(name)) for name in biased_images.roles} == {
        "train": 1294,
        "randomised": 1294,
        "validation": 144,
        "test": 359,
    }


def test_only_unbiased_splits_of_unseen_digits_are_reported(biased_images):
    assert sorted(biased_images.reported_splits) == ["test", "validation"]


def test_only_the_training_split_is_biased(biased_images):
    for name in biased_images.roles:
        split = biased_images.split(name)
        share = (split.labels == split.attributes["foreground_index"]).float().mean().item()
        assert share == 1 if name == "train" else share < 0.25


def test_the_randomised_split_has_the_digits_of_the_training_split(biased_images):
    train, randomised = biased_images.split("train"), biased_images.split("randomised")
    assert torch.equal(train.labels, randomised.labels)
    assert not torch.equal(train.images, randomised.images)


def test_copies_repeat_every_digit_in_other_colours(tmp_path, biased_images):
    settings = SETTINGS.model_copy(update={"copies": 2})
    train = build_biased_images(tmp_path, "absent", settings, "double_colored", 0).split("train")
    once = biased_images.split("train")
    assert len(train) == 2 * len(once)
    first, second = train[: len(once)], train[len(once) :]
    assert torch.equal(first.labels, second.labels)
    assert not torch.equal(first.images, second.images)


def test_the_same_settings_give_identical_files(tmp_path, biased_images):
    again = build_biased_images(tmp_path, "absent", SETTINGS, "double_colored", 0)
    assert again.artifact.manifest == biased_images.artifact.manifest


def test_another_seed_gives_other_files(tmp_path, biased_images):
    other = build_biased_images(tmp_path, "absent", SETTINGS, "double_colored", 1)
    assert other.artifact.identity != biased_images.artifact.identity
    assert (
        other.artifact.manifest["files"]["splits/test/rows.parquet"]
        != biased_images.artifact.manifest["files"]["splits/test/rows.parquet"]
    )


def test_settings_of_the_feature_network_do_not_change_the_images(tmp_path, biased_images):
    settings = SETTINGS.model_copy(update={"feature_network": ClassifierFit(num_images=7)})
    again = build_biased_images(tmp_path, "absent", settings, "double_colored", 0)
    assert again.artifact.identity == biased_images.artifact.identity
