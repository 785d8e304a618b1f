"""Classifiers on originals and counterfactuals: seeds pair up, finished work is reused."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.recipe import Run, Store, build_in
from skdcgn_pipeline.classifiers import classification as module
from skdcgn_pipeline.classifiers.classification import COLUMNS, Classification, classifier_seed
from skdcgn_pipeline.classifiers.inspection import followed_mechanisms, open_classifiers, shared_errors
from skdcgn_pipeline.classifiers.training_sets import TrainingSet, counterfactuals_on_the_fly, stored_counterfactuals
from skdcgn_pipeline.counterfactuals.pools import CounterfactualsRecipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import ClassifierFit, Classify, Compose, Composition, Compute, Prepare
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.samples.pixels import from_bytes
from skdcgn_pipeline.teachers.cgn import MnistCGN
from tiny import PicklingEngine, build_biased_images, draw_samples, tree_of

CPU = Compute(device="cpu")
FIT = ClassifierFit(num_images=16, batch_size=8)
COMPOSE = Compose(num_pool_images_per_class=2, num_images=10, rows_per_shard=10, composition=Composition())


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> StoredImages:
    prepare = Prepare(validation_fraction=0.02, feature_network=FIT)
    return build_biased_images(tmp_path_factory.mktemp("images"), "absent", prepare, "double_colored", 0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> SampleShards:
    torch.manual_seed(0)
    cgn = MnistCGN(width=2).eval()
    return draw_samples(tmp_path_factory.mktemp("samples"), cgn, {"name": "small"}, 4, 20, 0, CPU)


@pytest.fixture
def validation_alone(monkeypatch):
    monkeypatch.setattr(StoredImages, "reported_splits", ["validation"])


def classification(folder: Path, images: StoredImages, num_seeds: int = 2, **settings) -> Classification:
    return Classification(Run(Store(folder), 0, CPU), images, Classify(num_seeds=num_seeds, fit=FIT, **settings))


def measure(folder: Path, images: StoredImages, num_seeds: int = 2, training_set: TrainingSet | None = None):
    compared = classification(folder, images, num_seeds)
    return compared.compare([training_set or compared.originals()])


def test_classifiers_of_two_training_sets_pair_up_by_seed():
    seeds = [classifier_seed(0, number) for number in range(5)]
    assert len(set(seeds)) == 5
    assert seeds[0] != classifier_seed(1, 0)


def test_every_seed_and_split_is_measured(tmp_path, images, validation_alone):
    table = measure(tmp_path, images)
    assert list(table.columns) == COLUMNS
    assert table["trained_on"].unique().tolist() == ["originals"]
    assert table["seed"].unique().tolist() == [0, 1]
    assert table["subset"].unique().tolist() == ["all", "without collisions", "worst group"]
    assert table["accuracy"].between(0, 1).all()


def test_finished_classifiers_and_measures_are_reused(tmp_path, images, validation_alone, monkeypatch):
    first = measure(tmp_path, images)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "predict_split", refuse)
    second = measure(tmp_path, images)
    assert first.equals(second)


def test_more_seeds_keep_the_first_ones(tmp_path, images, validation_alone):
    few = measure(tmp_path, images, 1)
    many = measure(tmp_path, images)
    assert many[many["seed"] == 0].equals(few)


def test_another_composition_trains_another_classifier(tmp_path, images, samples, validation_alone):
    for composition in (Composition(), Composition(patch_shift=False)):
        training_set = counterfactuals_on_the_fly("students", samples, composition, Store(tmp_path))
        measure(tmp_path, images, 1, training_set)
    assert len([path for path in (tmp_path / "classifier").iterdir() if path.is_dir()]) == 2


def test_fresh_counterfactuals_follow_the_seed_of_their_classifier(tmp_path, samples):
    training_set = counterfactuals_on_the_fly("teacher", samples, Composition(), Store(tmp_path))
    first, again, other = (training_set.source(seed)(0, 6)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert training_set.num_classes == 10


def test_stored_counterfactuals_are_labelled_by_their_shape(tmp_path, samples):
    shards = build_in(tmp_path, CounterfactualsRecipe(samples, Composition(), 30, 20))
    images, labels = stored_counterfactuals("teacher", shards, 10).source(0)(0, 30)
    stored, stored_labels = shards.read_labelled()
    known = {image.numpy().tobytes(): label for image, label in zip(stored, stored_labels[:, 0].tolist(), strict=True)}
    as_bytes = ((images + 1) * 127.5).round().to(torch.uint8)
    assert [known[image.numpy().tobytes()] for image in as_bytes] == labels[:, 0].tolist()


@pytest.mark.parametrize("counterfactuals", ["on_the_fly", "stored"])
def test_the_originals_come_first_and_every_source_follows(tmp_path, images, samples, counterfactuals):
    compared = classification(tmp_path, images, counterfactuals=counterfactuals)
    sets = compared.training_sets({"teacher": samples, "students": samples}, COMPOSE, Composition())
    assert [each.name for each in sets] == ["originals", "teacher", "students"]
    stored = build_in(tmp_path / "counterfactual", CounterfactualsRecipe(samples, Composition(), 10, 10))
    told = [{"counterfactuals": stored.artifact.identity}] * 2 if counterfactuals == "stored" else [{}] * 2
    assert [{k: v for k, v in each.inputs.items() if k == "counterfactuals"} for each in sets[1:]] == told
    assert [each.name for each in compared.training_sets({}, COMPOSE, Composition())] == ["originals"]


def test_training_sets_are_compared_in_one_table(tmp_path, images, samples, validation_alone):
    compared = classification(tmp_path, images)
    table = compared.compare(compared.training_sets({"students": samples}, COMPOSE, Composition()))
    assert table.groupby(["trained_on", "seed"], sort=False).ngroups == 4
    assert table["trained_on"].unique().tolist() == ["originals", "students"]


@pytest.mark.parametrize("counterfactuals", ["on_the_fly", "stored"])
def test_classifiers_trained_elsewhere_are_those_of_one_process(
    tmp_path, images, samples, validation_alone, counterfactuals
):
    def compare(run: Run) -> pd.DataFrame:
        compared = Classification(run, images, Classify(num_seeds=2, fit=FIT, counterfactuals=counterfactuals))
        return compared.compare(compared.training_sets({"students": samples}, COMPOSE, Composition()))

    engine = PicklingEngine()
    here, there = Run(Store(tmp_path / "here"), 0, CPU), Run(Store(tmp_path / "there"), 0, CPU, engine=engine)
    pd.testing.assert_frame_equal(compare(there), compare(here))
    assert engine.units == [(name, seed) for name in ("originals", "students") for seed in range(2)]
    assert tree_of(tmp_path / "there") == tree_of(tmp_path / "here")
    compare(there)
    assert len(engine.units) == 4


def test_a_share_of_every_batch_of_counterfactuals_are_originals(tmp_path, images, samples):
    mixed = classification(tmp_path, images, share_of_originals=0.25)
    plain = classification(tmp_path, images)
    sets = mixed.training_sets({"students": samples}, COMPOSE, COMPOSE.composition)
    (lesson,), (unmixed,), (real,) = (
        mixed.lessons(sets[1], seed=3),
        plain.lessons(sets[1], seed=3),
        mixed.lessons(sets[0], seed=3),
    )
    drawn, labels = lesson.draw_batch(0, 8)
    expected, _ = unmixed.draw_batch(0, 6)
    assert torch.equal(drawn[:6], expected)
    assert labels.shape == (8,)
    assert (drawn[6:, None] == from_bytes(images.split("train").images)[None]).flatten(2).all(2).any(1).all()
    assert torch.equal(real.draw_batch(0, 8)[0], plain.lessons(sets[0], seed=3)[0].draw_batch(0, 8)[0])


def test_classes_of_high_loss_weigh_more_of_every_training_set(tmp_path, images, samples):
    weighted, plain = classification(tmp_path, images, worst_class_step=0.5), classification(tmp_path, images)
    sets = weighted.training_sets({"students": samples}, COMPOSE, Composition())
    classes = torch.arange(images.num_classes)
    logits = 5.0 * F.one_hot(classes, images.num_classes).float()
    logits[1] = 0.0  # the second class is not recognised
    for each, labels in (sets[0], classes), (sets[1], torch.stack([classes, classes.roll(1), classes.roll(2)], 1)):
        (lesson,), (even,) = weighted.lessons(each, seed=3), plain.lessons(each, seed=3)
        told = [lesson.losses(logits, labels)["loss"].item() for _ in range(9)]
        assert even.losses(logits, labels)["loss"] < told[0] < told[-1] < math.log(images.num_classes)
        assert lesson.state.weights.argmax() == 1
        assert weighted.recipe(each, 0).inputs() != plain.recipe(each, 0).inputs()


def test_a_killed_training_continues_with_the_weights_of_its_classes(tmp_path, images):
    def train(folder: str):
        compared = classification(tmp_path / folder, images, worst_class_step=0.5)
        return tree_of(compared.train(compared.originals(), 0)[0].directory)

    progress.request_stop()
    with pytest.raises(InterruptedRunError, match="stopped at 1 of 2 steps"):
        train("killed")
    progress.clear_stop()
    assert train("killed") == train("whole")


def test_weights_of_classes_are_refused_where_there_is_another_loss():
    with pytest.raises(ValueError, match="'worst_class_step' is for one head"):
        Classify(fit=FIT, worst_class_step=0.1, network={"architecture": "resnet18", "heads": "mechanisms"})


def test_only_reported_splits_are_measured_and_read_once(tmp_path, images):
    splits = classification(tmp_path, images).splits
    assert sorted(splits) == ["test", "validation"]
    assert splits["validation"]() is splits["validation"]()
    assert len(splits["validation"]()) == len(images.split("validation"))


def test_an_interrupted_comparison_continues_with_the_classifier_it_was_at(tmp_path, images, validation_alone):
    whole = measure(tmp_path / "whole", images)
    measure(tmp_path / "killed", images, 1)
    progress.request_stop()
    with pytest.raises(InterruptedRunError, match="classifier on originals, seed 1: stopped at 1 of 2 steps"):
        measure(tmp_path / "killed", images)
    progress.clear_stop()
    assert measure(tmp_path / "killed", images).equals(whole)


def test_what_answers_follow_is_told_of_samples_that_nothing_was_trained_on(
    tmp_path, images, samples, validation_alone
):
    compared = classification(tmp_path, images)
    sets = [compared.originals()]
    trained = open_classifiers(compared, sets)
    table = followed_mechanisms(compared, trained, samples)
    assert table["trained_on"].tolist() == ["originals"]
    assert table[["shape", "texture", "background", "none"]].sum(axis=1).tolist() == pytest.approx([1])
    # Three classes of ten differ in 72 % of the images.
    assert 1350 < table["num_images"].item() < 1530
    assert followed_mechanisms(compared, trained, None).empty
    without = classification(tmp_path, images, num_counterfactuals=0)
    assert followed_mechanisms(without, trained, samples).empty


def test_errors_of_classifiers_are_compared_image_by_image(tmp_path, images, samples, monkeypatch):
    monkeypatch.setattr(StoredImages, "splits", lambda self, *roles: ["validation"] if "test" in roles else [])
    compared = classification(tmp_path, images)
    sets = compared.training_sets({"students": samples}, COMPOSE, Composition())
    trained = open_classifiers(compared, sets)
    table = shared_errors(compared, trained).set_index(["trained_on", "other"])

    assert table.index.tolist() == [("originals", "originals"), ("originals", "students"), ("students", "students")]
    accuracy = compared.compare(sets).query("subset == 'all'").set_index(["trained_on", "seed"])["accuracy"]
    (first, second), of = accuracy["originals"], table.loc[("originals", "originals")]
    assert of["num_images"] == len(images.split("validation"))
    if of["num_pairs"]:
        assert of["expected"] == pytest.approx(first * second + (1 - first) * (1 - second))
    assert table["num_pairs"].le([1, 4, 1]).all()
    alone = classification(tmp_path, images, num_seeds=1)
    assert shared_errors(alone, open_classifiers(alone, sets[:1])).empty


def test_a_killed_measurement_on_every_background_continues_with_the_block_it_was_at(tmp_path, images, monkeypatch):
    objects = images.split("validation")[torch.arange(5)]
    known = dict.fromkeys(module.CHALLENGE_SPLITS, lambda: objects)
    monkeypatch.setattr(Classification, "splits", known)
    monkeypatch.setattr(module, "OBJECTS_PER_BLOCK", 2)
    counted = []

    def count(classifier, part, backgrounds, groups, compute):
        counted.append(len(part))
        if len(counted) == 2:
            raise InterruptedRunError("killed")
        return {"": len(part) - 1}

    monkeypatch.setattr(module, "count_robust", count)
    measuring = classification(tmp_path, images)
    artifact, network = measuring.train(measuring.originals(), 0)
    with pytest.raises(InterruptedRunError):
        measuring._measured_on_every_background(artifact, network)
    (row,) = measuring._measured_on_every_background(artifact, network)
    assert counted == [2, 2, 2, 1]
    expected = {"split": "imagenet9", "subset": "on every background", "accuracy": 2 / 5, "num_images": 5}
    assert row == expected
