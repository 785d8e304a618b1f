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
    accuracy_metrics,
    background_gap,
    count_confusions,
    decide_groups,
    expected_calibration_error,
    mean_interval,
    measure_accuracy,
    measure_heads,
    measure_predictions,
    predict_logits,
    predict_split,
    summarise_accuracy,
)
from skdcgn_pipeline.classifiers.torchvision_classifier import MechanismLogits, TorchvisionClassifier
from skdcgn_pipeline.images.batches import batches_in_order
from skdcgn_pipeline.images.image_set import ImagesInMemory, Split
from skdcgn_pipeline.parameters import ClassifierNetwork, Compute
from skdcgn_pipeline.runtime.errors import SettingError
from tiny import biased_split


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
        batches = predict_logits(BrightnessClassifier(), batches_in_order(split, batch_size), cpu)
        logits, labels = zip(*batches, strict=True)
        assert torch.cat(logits).argmax(1).tolist() == [3, 1, 4, 1, 5]
        assert torch.equal(torch.cat(labels), split.labels)


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
    predictions = predict_split(BrightnessClassifier(), split, cpu)
    confusion = count_confusions(predictions, split)
    assert measure_predictions(predictions, split) == measure_accuracy(BrightnessClassifier(), split, cpu)
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
    predictions = predict_split(BrightnessClassifier(), split, cpu)
    rows = {row["subset"]: row for row in measure_predictions(predictions, split, ["crow", "duck"])}
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


def test_metrics_are_named_by_training_set_split_and_subset():
    summary = pd.DataFrame(
        [["students", "test", "without collisions", 0.75], ["students", "validation", "shape bias, shape head", 0.5]],
        columns=["trained_on", "split", "subset", "mean_accuracy"],
    )
    assert accuracy_metrics(summary) == {
        "accuracy/students/test/without_collisions": 0.75,
        "accuracy/students/validation/shape_bias_shape_head": 0.5,
    }


# --- what is measured by hand, of logits [N, K] ---------------------------------------------------


def of_split(labels: list[int], classes: list[int] | None = None, **attributes: list[int]) -> Split:
    known = {name: torch.tensor(values) for name, values in attributes.items()}
    images = ImagesInMemory(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8))
    allowed = None if classes is None else torch.tensor(classes)
    return Split("some", "test", images, torch.tensor(labels), known, classes=allowed)


def measured(logits: torch.Tensor, split: Split, groups=None) -> dict[str, dict]:
    return {row["subset"]: row for row in measure_predictions({"": logits}, split, (), groups)}


def test_restricted_predictions_ignore_other_classes():
    logits = torch.tensor([[9.0, 1.0, 0.0, 2.0, 0.0], [9.0, 3.0, 8.0, 1.0, 0.0]])
    assert measured(logits, of_split([3, 1]))["all"]["accuracy"] == 0
    assert measured(logits, of_split([3, 1], [1, 3]))["all"]["accuracy"] == 1
    assert measured(logits, of_split([3, 1], [3, 2, 1]))["all"]["accuracy"] == 0.5


def test_classes_out_of_range_are_refused_and_unknown_ones_left_out():
    with pytest.raises(SettingError, match="labels: expected classes from 0 to 2, got 3"):
        measured(torch.eye(3), of_split([0, 3, 1]))
    assert measured(torch.eye(3), of_split([0, -1, 1]))["all"] | {"calibration_error": 0} == {
        "subset": "all", "accuracy": 0.5, "num_images": 2, "calibration_error": 0,
    }  # fmt: skip


# Class 4 is of no group.
GROUPS = [torch.tensor([0]), torch.tensor([1, 2]), torch.tensor([3])]
BOAT, CAT, DOG = range(3)


def logits_of(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


@pytest.mark.parametrize(
    ("probabilities", "group", "wrong"),
    [
        ([0.30, 0.25, 0.20, 0.05, 0.20], BOAT, "summed: cat with 0.45"),
        ([0.30, 0.40, 0.05, 0.05, 0.20], BOAT, "the most probable class: cat with 0.40"),
        ([0.25, 0.58, 0.01, 0.05, 0.11], CAT, "averaged logits: boat"),
        ([0.10, 0.10, 0.05, 0.20, 0.55], DOG, "the class of no group"),
    ],
)
def test_probabilities_are_averaged_within_groups(probabilities, group, wrong):
    assert decide_groups(logits_of(probabilities), GROUPS).tolist() == [group], wrong


def test_a_constant_added_to_the_logits_changes_no_decision():
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * 4
    shifted = logits + torch.linspace(-300, 300, 50)[:, None]
    assert torch.equal(decide_groups(shifted, GROUPS), decide_groups(logits, GROUPS))


def cue_conflict(shape: list[int], texture: list[int]) -> Split:
    return of_split([-1] * len(shape), shape=shape, texture=texture)


def test_the_shape_bias_by_hand():
    boat, cat, dog = (
        [0.9, 0.025, 0.025, 0.025, 0.025],
        [0.025, 0.025, 0.9, 0.025, 0.025],
        [0.025, 0.025, 0.025, 0.9, 0.025],
    )
    logits = logits_of(boat, cat, cat, dog, cat, boat)
    # Two decisions for the shape, one for the texture, one for neither; the last two images have no conflict.
    split = cue_conflict([BOAT, CAT, BOAT, BOAT, CAT, DOG], [CAT, DOG, CAT, CAT, CAT, DOG])
    rows = measured(logits, split, {"shape": GROUPS, "texture": GROUPS})
    assert rows == {"shape bias": {"subset": "shape bias", "accuracy": pytest.approx(2 / 3), "num_images": 3}}


def test_no_decision_for_shape_or_texture_is_no_bias():
    rows = measured(torch.eye(5)[[3]] * 9, cue_conflict([BOAT], [CAT]), {"shape": GROUPS, "texture": GROUPS})
    assert math.isnan(rows["shape bias"]["accuracy"])
    assert rows["shape bias"]["num_images"] == 0


def test_groups_of_classes_that_there_are_not_are_refused():
    with pytest.raises(SettingError, match="groups of classes: expected classes from 0 to 1, got 2"):
        decide_groups(torch.zeros(1, 2), GROUPS)
    with pytest.raises(SettingError, match="groups of classes: expected classes from 0 to 1, got 3"):
        measured(torch.zeros(1, 2), of_split([-1], in9=[0]), {"in9": [torch.tensor([0]), torch.tensor([1, 3])]})
    with pytest.raises(SettingError, match="labels: expected classes from 0 to 1, got 2"):
        measured(torch.zeros(1, 4), of_split([-1], in9=[2]), {"in9": IN9})


IN9 = [torch.tensor([0]), torch.tensor([1, 3])]  # class 2 is of none


def test_predictions_are_mapped_to_imagenet9():
    right, wrong = of_split([-1] * 4, in9=[0, 1, 1, 1]), of_split([-1] * 4, in9=[1, 0, 0, 0])
    # A class of no group is wrong even if it is most probable, as in the published evaluation.
    assert measured(torch.eye(4), right, {"in9": IN9})["all"]["accuracy"] == 0.75
    assert measured(torch.eye(4), wrong, {"in9": IN9})["all"]["accuracy"] == 0


def test_the_background_gap_is_the_difference_of_each_prediction():
    rows = [
        {"split": "imagenet9/mixed_same", "subset": "all", "accuracy": 1.0, "num_images": 4},
        {"split": "imagenet9/mixed_same", "subset": "shape head", "accuracy": 0.75, "num_images": 4},
        {"split": "imagenet9/mixed_rand", "subset": "all", "accuracy": 0.25, "num_images": 8},
        {"split": "imagenet9/mixed_rand", "subset": "shape head", "accuracy": 0.75, "num_images": 8},
    ]
    assert background_gap(rows, "imagenet9/mixed_same", "imagenet9/mixed_rand") == [
        {"split": "imagenet9", "subset": "background gap", "accuracy": 0.75, "num_images": 8},
        {"split": "imagenet9", "subset": "background gap, shape head", "accuracy": 0.0, "num_images": 8},
    ]


# --- heads of mechanisms ---------------------------------------------------------------------------


class Spelt(nn.Module):
    """A classifier whose logits are written in its images: channel m holds those of mechanism m."""

    def forward(self, images: torch.Tensor) -> MechanismLogits:
        return MechanismLogits(*images[:, :, 0].unbind(1))


def test_every_prediction_of_heads_is_measured():
    eye, split = torch.eye(3), of_split([0, 1, 2])
    # Shape is right, texture one off, the background two off and louder than both.
    logits = MechanismLogits(3 * eye, 2 * eye.roll(1, 1), 9 * eye.roll(2, 1))
    rows = {row["subset"]: row["accuracy"] for row in measure_predictions(logits.predictions, split)}
    assert rows == {
        "all": 0.0,
        "without background": 1.0,
        "shape head": 1.0,
        "texture head": 0.0,
        "background head": 0.0,
    }
    twelve = MechanismLogits(*torch.zeros(3, 3, 12))
    subsets = [row["subset"] for row in measure_predictions(twelve.predictions, split)]
    assert subsets[:3] == ["all", "top 5", "without background"]
    assert "top 5, background head" in subsets


def test_heads_are_measured_on_the_class_of_their_own_mechanism():
    eye = torch.eye(8)
    labels = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 0]])
    images = eye[labels][:, :, None]

    def accuracy(spelt: torch.Tensor, batch_size: int) -> dict[str, float]:
        batches = zip(spelt.split(batch_size), labels.split(batch_size), strict=True)
        return {row["subset"]: row["accuracy"] for row in measure_heads(Spelt(), batches, Compute(device="cpu"))}

    assert accuracy(images, 2) == {"shape head": 1.0, "texture head": 1.0, "background head": 1.0}
    swapped = accuracy(images[:, [1, 0, 2]], 3)
    assert swapped == {"shape head": 0.0, "texture head": 0.0, "background head": 1.0}


def test_a_network_is_measured_in_eval_mode_without_gradients():
    settings = ClassifierNetwork(architecture="mobilenet_v3_small", heads="mechanisms", frozen_norm="none")
    network = TorchvisionClassifier(settings, 3).train()
    images = ImagesInMemory(torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    split = Split("some", "test", images, torch.tensor([0, 1, 2, 0]))
    statistics = [buffer.clone() for buffer in network.buffers()]
    for precision in ("fp32", "bf16"):
        predictions = predict_split(network, split, Compute(device="cpu", precision=precision))
        assert not predictions[""].requires_grad
        assert predictions[""].dtype == torch.float32
        assert all(row["accuracy"] in (0.25, 0.5) for row in measure_predictions(predictions, split))
    assert all(torch.equal(now, before) for now, before in zip(network.buffers(), statistics, strict=True))
