"""The stored biased datasets: which splits there are and what they depend on."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.images.recipes import image_set_recipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import ClassifierFit, Images, Prepare
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


def test_a_weaker_bias_changes_the_training_split_alone(tmp_path, biased_images):
    recipe = image_set_recipe(Images(bias_share=0.95), SETTINGS, "double_colored", "absent", 0)
    weaker = build_in(tmp_path, recipe)
    assert weaker.fingerprint != biased_images.fingerprint
    for name in weaker.roles:
        ours, theirs = weaker.split(name), biased_images.split(name)
        same = (ours.images == theirs.images).flatten(1).all(1)
        assert same.all() if name != "train" else not same.all()
    train = weaker.split("train")
    assert (train.labels == train.attributes["background_index"]).sum() == round(0.95 * len(train))
    conflicting = int((train.groups % 2).nonzero()[0])
    name = f"{int(train.labels[conflicting])}, bias-conflicting"
    assert train.group_name(int(train.groups[conflicting]), weaker.class_names) == name


def test_true_masks_are_kept_where_asked_for_and_change_nothing_else(tmp_path, biased_images):
    masked = build_in(tmp_path, image_set_recipe(Images(masks=True), SETTINGS, "double_colored", "absent", 0))
    assert masked.fingerprint != biased_images.fingerprint
    for name in masked.roles:
        ours, theirs = masked.split(name), biased_images.split(name)
        assert torch.equal(ours.images, theirs.images)
        assert theirs.masks is None
        inside = (ours.masks.take(torch.arange(len(ours))) > 127).expand_as(ours.images)
        for split_by, side in (("foreground_index", inside), ("background_index", ~inside)):
            row = int((ours.attributes[split_by] == 3).nonzero()[0])
            pixels = ours.images[row][:, side[row, 0]].float()
            assert pixels.std(1).max() < 30  # one colour and its noise
    with pytest.raises(ValueError, match="'masks' is of digits, mnist, fashion_mnist, not of the source 'folder'"):
        Images(source="folder", folder=str(tmp_path), masks=True)


def test_the_strength_of_the_bias_is_of_coloured_images(tmp_path):
    with pytest.raises(ValueError, match="'bias_share' is of digits, mnist, fashion_mnist, not of the source 'folder'"):
        Images(source="folder", folder=str(tmp_path), bias_share=0.95)
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Images(bias_share=1.5)


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
