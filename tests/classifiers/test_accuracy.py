"""Accuracy by split, and the interval of its mean."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from skdcgn_pipeline.classifiers.accuracy import (
    expected_calibration_error,
    mean_interval,
    measure_accuracy,
    measure_classifier,
    predict_logits,
    summarise_accuracy,
)
from skdcgn_pipeline.images.bias import biased_split
from skdcgn_pipeline.images.image_set import ImagesInMemory, Split


class BrightnessClassifier(nn.Module):
    """Tells the class from how bright an image is: class c for 20 * c."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = (images.mean((1, 2, 3)) + 1) * 127.5 / 20
        return -(brightness[:, None] - torch.arange(10)).abs()


def make_split(classes: list[int], labels: list[int], collision: list[bool]) -> Split:
    images = (torch.tensor(classes) * 20).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    indices = torch.zeros(len(labels), dtype=torch.long)
    return biased_split(images, torch.tensor(labels), indices, indices, torch.tensor(collision))


def test_predictions_do_not_depend_on_the_batches(cpu):
    split = make_split([3, 1, 4, 1, 5], [0] * 5, [False] * 5)
    for batch_size in (1, 2, 500):
        predicted = predict_logits(BrightnessClassifier(), split.rows, cpu, batch_size).argmax(1)
        assert predicted.tolist() == [3, 1, 4, 1, 5]


def test_accuracy_is_the_share_of_right_answers(cpu):
    (row,) = measure_accuracy(BrightnessClassifier(), make_split([1, 2, 3, 4], [1, 2, 0, 0], [False] * 4), cpu)
    assert row["calibration_error"] > 0
    assert {**row, "calibration_error": 0} == {
        "subset": "all",
        "accuracy": 0.5,
        "num_images": 4,
        "calibration_error": 0,
    }


def test_digits_without_a_collision_are_also_measured_alone(cpu):
    split = make_split([1, 2, 3, 4], [1, 2, 3, 0], [False, False, False, True])
    rows = {row["subset"]: row for row in measure_accuracy(BrightnessClassifier(), split, cpu)}
    assert rows["all"]["accuracy"] == 0.75
    assert rows["without collisions"] == {"subset": "without collisions", "accuracy": 1.0, "num_images": 3}


def test_a_confusion_matrix_counts_images_by_true_and_predicted_class(cpu):
    predicted, labels = [1, 2, 2, 0, 9, 1], [1, 2, 1, 0, 3, 1]
    split = make_split(predicted, labels, [False, False, False, True, False, False])
    rows, confusion = measure_classifier(BrightnessClassifier(), split, cpu, 10)
    assert rows == measure_accuracy(BrightnessClassifier(), split, cpu)
    expected = [[0] * 10 for _ in range(10)]
    for label, answer in zip(labels, predicted, strict=True):
        expected[label][answer] += 1
    assert confusion == expected
    assert confusion[3][9] == 1  # a 3 taken for a 9, not the other way round
    assert confusion[9][3] == 0


def test_the_worst_group_is_named_by_class_and_background(cpu):
    images = make_split([0, 0, 1, 1, 1, 0], [0] * 6, [False] * 6).images
    split = Split(
        "test",
        "test",
        ImagesInMemory(images),
        torch.tensor([0, 0, 0, 1, 1, 1]),
        {"background": torch.tensor([0, 1, 1, 0, -1, 1])},
        {"background": ("land", "water")},
    )
    rows = {row["subset"]: row for row in measure_accuracy(BrightnessClassifier(), split, cpu, ["crow", "duck"])}
    assert rows["all"]["accuracy"] == pytest.approx(4 / 6)
    # Crows on land 1 of 1, crows on water 1 of 2, ducks on land 1 of 1, ducks on water 0 of 1; one of no group.
    expected = {"subset": "worst group", "accuracy": 0.0, "num_images": 1, "group": "duck on water"}
    assert rows["worst group"] == expected


def test_images_of_no_group_have_no_worst_one(cpu):
    split = make_split([1, 2], [1, 2], [False] * 2)
    split = Split("test", "test", split.rows, split.labels, {"group": torch.tensor([-1, -1])})
    assert [row["subset"] for row in measure_accuracy(BrightnessClassifier(), split, cpu)] == ["all"]


def test_with_more_than_ten_classes_the_five_most_probable_ones_count_too(cpu):
    class Twelve(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return -torch.arange(12.0).expand(len(images), 12)

    rows = measure_accuracy(Twelve(), make_split([0] * 4, [0, 4, 5, 11], [False] * 4), cpu)
    assert rows[1] == {"subset": "top 5", "accuracy": 0.5, "num_images": 4}


def test_the_calibration_error_by_hand(cpu):
    probabilities = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.38, 0.62]])
    labels = torch.tensor([0, 1, 0, 1])
    # Ten bins: two images at 0.95 of which one is right, one at 0.6 that is right, one at 0.62 that is right.
    expected = (abs(2 * 0.95 - 1) + abs(0.6 - 1) + abs(0.62 - 1)) / 4
    assert expected_calibration_error(probabilities.log(), labels, 10) == pytest.approx(expected, abs=1e-6)


def test_who_is_certain_and_right_is_calibrated(cpu):
    class Certain(BrightnessClassifier):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 1000 * super().forward(images)

    right, half = (make_split([1, 2], labels, [False] * 2) for labels in ([1, 2], [1, 0]))
    assert measure_accuracy(Certain(), right, cpu)[0]["calibration_error"] == pytest.approx(0, abs=1e-9)
    assert measure_accuracy(Certain(), half, cpu)[0]["calibration_error"] == pytest.approx(0.5)


@pytest.mark.parametrize("num_values", [2, 3, 10])
def test_the_interval_is_students(num_values):
    values = np.random.default_rng(0).normal(0.8, 0.02, num_values)
    mean, deviation, half_width = mean_interval(values)
    low, high = stats.t.interval(0.95, num_values - 1, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean())
    assert deviation == pytest.approx(values.std(ddof=1))
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))


def test_a_single_value_has_no_interval():
    mean, deviation, half_width = mean_interval(np.array([0.7]))
    assert mean == 0.7
    assert math.isnan(deviation)
    assert math.isnan(half_width)


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval(np.array([0.5, 0.5, 0.5])) == (0.5, 0.0, 0.0)


def test_a_summary_is_made_per_group_in_order_of_appearance():
    rows = [
        ("students", "test", 0, 0.8),
        ("students", "test", 1, 0.9),
        ("originals", "test", 0, 0.1),
        ("originals", "test", 1, 0.2),
    ]
    accuracy = pd.DataFrame(rows, columns=["trained_on", "split", "seed", "accuracy"]).assign(num_images=50)
    summary = summarise_accuracy(accuracy, ["trained_on", "split"])
    assert summary["trained_on"].tolist() == ["students", "originals"]
    assert summary["mean_accuracy"].tolist() == pytest.approx([0.85, 0.15])
    half_width = stats.t.ppf(0.975, 1) * 0.1 / math.sqrt(2) / math.sqrt(2)
    assert summary["interval_high"].tolist() == pytest.approx([0.85 + half_width, 0.15 + half_width])
    assert summary["interval_low"].tolist() == pytest.approx([0.85 - half_width, 0.15 - half_width])
    assert summary["num_seeds"].tolist() == [2, 2]
    assert summary["num_images"].tolist() == [50, 50]
