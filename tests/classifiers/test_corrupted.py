"""Classifiers on corrupted test images: what is measured, what is reused, how it is summarised."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from skdcgn_pipeline.artifacts.recipe import Run, Store
from skdcgn_pipeline.classifiers import corrupted as module
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.classifiers.corrupted import (
    COLUMNS,
    corruption_metrics,
    measure_corruptions,
    summarise_corruptions,
)
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import ClassifierFit, Classify, Compute, Prepare
from tiny import build_biased_images

FIT = ClassifierFit(num_images=16, batch_size=8)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> StoredImages:
    prepare = Prepare(validation_fraction=0.02, feature_network=FIT)
    return build_biased_images(tmp_path_factory.mktemp("images"), "absent", prepare, "double_colored", 0)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(module, "ENOUGH_IMAGES", 20)


def measure(folder: Path, images: StoredImages, *corruptions: str, num_seeds: int = 2) -> pd.DataFrame:
    settings = Classify(num_seeds=num_seeds, fit=FIT, corruptions=corruptions)
    classification = Classification(Run(Store(folder), 0, Compute(device="cpu")), images, settings)
    return measure_corruptions(classification, [classification.originals()])


def test_every_strength_of_every_corruption_is_measured_beside_clean_images(tmp_path, images):
    table = measure(tmp_path, images, "noise", "shift")
    assert list(table.columns) == COLUMNS
    expected = [("clean", 0), *((name, number) for name in ("noise", "shift") for number in range(1, 6))]
    for _, rows in table.groupby("seed"):
        assert [*zip(rows["corruption"], rows["strength"], strict=True)] == expected
    assert table["split"].unique().tolist() == ["test"]
    assert table["num_images"].unique().tolist() == [20]
    assert ((table["accuracy"] * 20) % 1 == 0).all()


def test_another_setting_measures_what_is_new_and_trains_nothing(tmp_path, images, monkeypatch):
    few = measure(tmp_path, images, "blur")
    before = sorted(path.name for path in (tmp_path / "classifier").iterdir())
    measured, predict = [], module.predict_split

    def predict_split(classifier, split, compute):
        measured.append(split.rows.corruption)
        return predict(classifier, split, compute)

    monkeypatch.setattr(module, "predict_split", predict_split)
    more = measure(tmp_path, images, "contrast", "blur")
    assert measured == ["contrast"] * 5 * 2
    assert sorted(path.name for path in (tmp_path / "classifier").iterdir()) == before
    kept = more[more["corruption"] != "contrast"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, few)


def test_splits_of_groups_of_classes_are_left_out(tmp_path, images, monkeypatch):
    monkeypatch.setattr(images, "class_groups", {"background_index": []})
    assert measure(tmp_path, images, "noise", num_seeds=1).empty


def test_the_summary_has_the_mean_over_strengths_and_the_strongest():
    rows = [
        ("students", seed, "test", name, strength, accuracy + seed / 10, 50)
        for seed in (0, 1)
        for name, accuracies in (("clean", {0: 0.8}), ("noise", {1: 0.7, 2: 0.6, 3: 0.5, 4: 0.4, 5: 0.3}))
        for strength, accuracy in accuracies.items()
    ]
    summary = summarise_corruptions(pd.DataFrame(rows, columns=COLUMNS))
    told = summary.set_index(["strengths", "corruption"])
    means = {key: round(value, 9) for key, value in told["mean_accuracy"].to_dict().items()}
    assert means == {
        ("mean", "clean"): 0.85,
        ("mean", "noise"): 0.55,
        ("strongest", "clean"): 0.85,
        ("strongest", "noise"): 0.35,
    }
    assert (told["num_seeds"] == 2).all()
    assert (told["num_images"] == 50).all()
    assert {name: round(value, 9) for name, value in corruption_metrics(summary).items()} == {
        "accuracy/students/test/noise_mean": 0.55,
        "accuracy/students/test/noise_strongest": 0.35,
    }
