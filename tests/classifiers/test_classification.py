"""Classifiers on originals and counterfactuals: seeds pair up, finished work is reused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from skdcgn_pipeline.classifiers import classification
from skdcgn_pipeline.classifiers.classification import (
    COLUMNS,
    classifier_seed,
    counterfactuals_on_the_fly,
    originals,
    splits_of,
    stored_counterfactuals,
    train_and_measure,
    training_sets,
)
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import ClassifierFit, Composition, Compute, Prepare
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.teachers.cgn import MnistCGN
from tiny import build_biased_images, draw_samples, store_counterfactuals

CPU = Compute(device="cpu")
FIT = ClassifierFit(num_images=16, batch_size=8)


@pytest.fixture(scope="module")
def biased_images(tmp_path_factory) -> StoredImages:
    prepare = Prepare(validation_fraction=0.02, feature_network=FIT)
    return build_biased_images(tmp_path_factory.mktemp("images"), "absent", prepare, "double_colored", 0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> SampleShards:
    torch.manual_seed(0)
    cgn = MnistCGN(width=2).eval()
    return draw_samples(tmp_path_factory.mktemp("samples"), cgn, {"name": "small"}, 4, 20, 0, CPU)


@pytest.fixture
def one_split(biased_images):
    return {"validation": lambda: biased_images.split("validation")}


def measure(store: Path, training_set, biased_images, splits, num_seeds: int = 2, fit: ClassifierFit = FIT):
    return train_and_measure(store / "classifiers", [training_set], biased_images, splits, fit, num_seeds, 0, CPU)


def test_classifiers_of_two_training_sets_pair_up_by_seed():
    seeds = [classifier_seed(0, number) for number in range(5)]
    assert len(set(seeds)) == 5
    assert seeds[0] != classifier_seed(1, 0)


def test_every_seed_and_split_is_measured(tmp_path, biased_images, one_split):
    table = measure(tmp_path, originals(biased_images), biased_images, one_split)
    assert list(table.columns) == COLUMNS
    assert table["trained_on"].unique().tolist() == ["originals"]
    assert table["seed"].unique().tolist() == [0, 1]
    assert table["subset"].unique().tolist() == ["all", "without collisions"]
    assert table["accuracy"].between(0, 1).all()


def test_finished_classifiers_and_measures_are_reused(tmp_path, biased_images, one_split, monkeypatch):
    first = measure(tmp_path, originals(biased_images), biased_images, one_split)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(classification, "measure_accuracy", refuse)
    second = measure(tmp_path, originals(biased_images), biased_images, one_split)
    assert first.equals(second)


def test_more_seeds_keep_the_first_ones(tmp_path, biased_images, one_split):
    few = measure(tmp_path, originals(biased_images), biased_images, one_split, 1)
    many = measure(tmp_path, originals(biased_images), biased_images, one_split, 2)
    assert many[many["seed"] == 0].equals(few)


def test_another_composition_trains_another_classifier(tmp_path, biased_images, samples, one_split):
    for composition in (Composition(), Composition(patch_shift=False)):
        training_set = counterfactuals_on_the_fly(
            "students", samples, composition, lambda: CounterfactualPool.of(samples)
        )
        measure(tmp_path, training_set, biased_images, one_split, 1)
    assert len([path for path in (tmp_path / "classifiers").iterdir() if path.is_dir()]) == 2


def test_fresh_counterfactuals_follow_the_seed_of_their_classifier(samples):
    training_set = counterfactuals_on_the_fly("teacher", samples, Composition(), lambda: CounterfactualPool.of(samples))
    first, again, other = (training_set.source(seed)(0, 6)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert training_set.num_classes == 10


def test_stored_counterfactuals_are_labelled_by_their_shape(tmp_path, samples):
    shards = store_counterfactuals(tmp_path, samples, Composition(), 30, 20, 0)
    images, labels = stored_counterfactuals("teacher", shards, 10).source(0)(0, 30)
    stored, stored_labels = shards.read_labelled()
    known = {image.numpy().tobytes(): label for image, label in zip(stored, stored_labels[:, 0].tolist(), strict=True)}
    as_bytes = ((images + 1) * 127.5).round().to(torch.uint8)
    assert [known[image.numpy().tobytes()] for image in as_bytes] == labels.tolist()


@pytest.mark.parametrize("counterfactuals", ["on_the_fly", "stored"])
def test_the_originals_come_first_and_every_source_follows(tmp_path, biased_images, samples, counterfactuals):
    shards = store_counterfactuals(tmp_path, samples, Composition(), 10, 10, 0)
    sources = {"teacher": samples, "students": samples}
    sets = training_sets(biased_images, sources, dict.fromkeys(sources, shards), counterfactuals, Composition())
    assert [one.name for one in sets] == ["originals", "teacher", "students"]
    assert all(("counterfactuals" in one.inputs) == (counterfactuals == "stored") for one in sets[1:])


def test_training_sets_are_compared_in_one_table(tmp_path, biased_images, samples, one_split):
    sets = training_sets(biased_images, {"students": samples}, {}, "on_the_fly", Composition())
    table = train_and_measure(tmp_path / "c", sets, biased_images, one_split, FIT, 2, 0, CPU)
    assert table.groupby(["trained_on", "seed"], sort=False).ngroups == 4
    assert table["trained_on"].unique().tolist() == ["originals", "students"]


def test_only_reported_splits_are_measured_and_read_once(biased_images, monkeypatch):
    splits = splits_of(biased_images)
    assert sorted(splits) == ["test", "validation"]
    assert splits["validation"]() is splits["validation"]()
    assert len(splits["validation"]()) == len(biased_images.split("validation"))


def test_an_interrupted_comparison_continues_with_the_classifier_it_was_at(tmp_path, biased_images, one_split):
    training_set = originals(biased_images)
    whole = measure(tmp_path / "whole", training_set, biased_images, one_split)
    measure(tmp_path / "killed", training_set, biased_images, one_split, 1)
    progress.request_stop()
    with pytest.raises(InterruptedRunError, match="classifier on originals, seed 1: stopped at 1 of 2 steps"):
        measure(tmp_path / "killed", training_set, biased_images, one_split)
    progress.clear_stop()
    assert measure(tmp_path / "killed", training_set, biased_images, one_split).equals(whole)
