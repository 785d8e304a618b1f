"""Invariance by hand: top-k, shape bias, background gap, counterfactuals; and whole measurements of ensembles."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from skdcgn_pipeline.classifiers.ensemble import InvariantEnsemble, MechanismLogits
from skdcgn_pipeline.classifiers.invariance import (
    PREDICTIONS,
    count_cue_decisions,
    count_in9,
    decide_categories,
    measure_accuracy_on_folder,
    measure_background_gap,
    measure_counterfactual_accuracy,
    measure_shape_bias,
    predict,
    shape_bias,
    top_k_accuracy,
)
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.errors import SettingError

CPU = Compute(device="cpu")
# Class 4 is of no category.
CATEGORIES = {"boat": torch.tensor([0]), "cat": torch.tensor([1, 2]), "dog": torch.tensor([3])}
BOAT, CAT, DOG = range(3)


def logits_of(*probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities).log()


class Spelt(nn.Module):
    """An ensemble whose logits are written in its images: channel m holds those of mechanism m."""

    def forward(self, images: Tensor) -> MechanismLogits:
        return MechanismLogits(*images[:, :, 0].unbind(1))


def spell(shape: Tensor, texture: Tensor, background: Tensor, labels: Tensor, batch_size: int = 2):
    """Return batches whose logits [N, K] are those given."""
    images = torch.stack([shape, texture, background], 1)[:, :, None]
    return [*zip(images.split(batch_size), labels.split(batch_size), strict=True)]


def by_prediction(rows):
    json.dumps(rows, allow_nan=False)
    return {row["prediction"]: row for row in rows}


# --- top-k ---------------------------------------------------------------------------------------


def test_top_k_by_hand():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [0.0, 3.0, 1.0, 2.0], [9.0, 1.0, 2.0, 3.0]])
    labels = torch.tensor([0, 2, 2, 1])
    # Ranks of the true classes: 1, 2, 3, 4.
    assert top_k_accuracy(logits, labels, (1, 2, 3, 4)) == {1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0}


def test_more_than_all_classes_is_all_of_them():
    assert top_k_accuracy(torch.eye(3), torch.tensor([2, 0, 1])) == {1: 0.0, 5: 1.0}


def test_restricted_predictions_ignore_other_classes():
    logits = torch.tensor([[9.0, 1.0, 0.0, 2.0, 0.0], [9.0, 3.0, 8.0, 1.0, 0.0]])
    labels = torch.tensor([3, 1])
    assert top_k_accuracy(logits, labels, (1,)) == {1: 0.0}
    assert top_k_accuracy(logits, labels, (1,), torch.tensor([1, 3])) == {1: 1.0}
    # The order in which the classes are given does not matter.
    assert top_k_accuracy(logits, labels, (1,), torch.tensor([3, 2, 1])) == {1: 0.5}


def test_classes_out_of_range_are_refused():
    with pytest.raises(SettingError, match="labels: expected classes from 0 to 2, got 3"):
        top_k_accuracy(torch.eye(3), torch.tensor([0, 3, 1]))
    with pytest.raises(SettingError, match="labels: expected classes from 0 to 2, got -1"):
        top_k_accuracy(torch.eye(3), torch.tensor([0, -1, 1]))
    with pytest.raises(SettingError, match="restrict: expected classes from 0 to 2, got 7"):
        top_k_accuracy(torch.eye(3), torch.tensor([0, 2, 1]), classes=torch.tensor([0, 1, 2, 7]))
    with pytest.raises(SettingError, match="among those allowed, got class 2"):
        top_k_accuracy(torch.eye(3), torch.tensor([0, 2, 1]), classes=torch.tensor([0, 1]))


# --- shape bias ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probabilities", "category", "wrong"),
    [
        ([0.30, 0.25, 0.20, 0.05, 0.20], BOAT, "summed: cat with 0.45"),
        ([0.30, 0.40, 0.05, 0.05, 0.20], BOAT, "the most probable class: cat with 0.40"),
        ([0.25, 0.58, 0.01, 0.05, 0.11], CAT, "averaged logits: boat"),
        ([0.10, 0.10, 0.05, 0.20, 0.55], DOG, "the class of no category"),
    ],
)
def test_probabilities_are_averaged_within_categories(probabilities, category, wrong):
    assert decide_categories(logits_of(probabilities), CATEGORIES).tolist() == [category], wrong


def test_a_constant_added_to_the_logits_changes_no_decision():
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * 4
    shifted = logits + torch.linspace(-300, 300, 50)[:, None]
    assert torch.equal(decide_categories(shifted, CATEGORIES), decide_categories(logits, CATEGORIES))


def test_cue_decisions_by_hand():
    boat, cat, dog = (
        [0.9, 0.025, 0.025, 0.025, 0.025],
        [0.025, 0.025, 0.9, 0.025, 0.025],
        [0.025, 0.025, 0.025, 0.9, 0.025],
    )
    logits = logits_of(boat, cat, cat, dog, cat, boat)
    # Shape and texture of each image; the last two have no conflict.
    labels = torch.tensor([[BOAT, CAT], [CAT, DOG], [BOAT, CAT], [BOAT, CAT], [CAT, CAT], [DOG, DOG]])
    decisions = count_cue_decisions(logits, labels, CATEGORIES)
    assert decisions == {"num_shape": 2, "num_texture": 1, "num_other": 1, "num_without_conflict": 2}
    assert shape_bias(decisions["num_shape"], decisions["num_texture"]) == 2 / 3


def test_no_decision_for_shape_or_texture_is_no_bias():
    assert shape_bias(0, 0) is None
    assert shape_bias(0, 3) == 0
    assert shape_bias(3, 0) == 1


def test_categories_and_labels_out_of_range_are_refused():
    with pytest.raises(SettingError, match="category 'cat': expected classes from 0 to 1, got 2"):
        decide_categories(torch.zeros(1, 2), CATEGORIES)
    with pytest.raises(SettingError, match="labels: expected classes from 0 to 2, got 3"):
        count_cue_decisions(torch.zeros(1, 5), torch.tensor([[0, 3]]), CATEGORIES)


def test_the_shape_bias_of_each_head():
    boat, cat = logits_of([0.96, 0.01, 0.01, 0.01, 0.01]), logits_of([0.01, 0.01, 0.96, 0.01, 0.01])
    # Three images with the shape of a boat and the texture of a cat.
    shape = torch.cat([boat, boat, cat])
    texture = torch.cat([cat, cat, cat])
    background = torch.cat([cat, boat, logits_of([0.01, 0.01, 0.01, 0.96, 0.01])])
    batches = spell(shape, texture, background, torch.tensor([[BOAT, CAT]] * 3))
    rows = by_prediction(measure_shape_bias(Spelt(), batches, CATEGORIES, CPU))
    assert [*rows] == [*PREDICTIONS]
    assert rows["shape"]["shape_bias"] == 2 / 3
    assert rows["texture"]["shape_bias"] == 0
    assert rows["background"] == {
        "prediction": "background",
        "shape_bias": 0.5,
        "num_shape": 1,
        "num_texture": 1,
        "num_other": 1,
        "num_without_conflict": 0,
    }
    # Two of three heads for the cat, two for the boat, two for the cat.
    assert rows["mean"]["shape_bias"] == 1 / 3


# --- ImageNet-9 ----------------------------------------------------------------------------------

IN9_OF_CLASS = torch.tensor([0, 1, -1, 1])


def test_predictions_are_mapped_to_imagenet9():
    logits = torch.eye(4)
    assert count_in9(logits, torch.tensor([0, 1, 1, 1]), IN9_OF_CLASS) == 3
    assert count_in9(logits, torch.tensor([1, 0, 0, 0]), IN9_OF_CLASS) == 0


def test_a_class_of_no_group_is_wrong_even_if_it_is_most_probable():
    """Predictions are not restricted to the classes of ImageNet-9, as in the published evaluation."""
    logits = torch.tensor([[2.0, 1.0, 3.0, 0.0]])
    assert count_in9(logits, torch.tensor([0]), IN9_OF_CLASS) == 0


def test_other_tables_and_labels_are_refused():
    with pytest.raises(SettingError, match="the 4 classes of the ImageNet-9 table, got 10"):
        count_in9(torch.zeros(1, 10), torch.tensor([0]), IN9_OF_CLASS)
    with pytest.raises(SettingError, match="labels: expected classes from 0 to 1, got 2"):
        count_in9(torch.zeros(1, 4), torch.tensor([2]), IN9_OF_CLASS)


def test_the_background_gap_by_hand():
    first, second, none = torch.eye(4)[[0]] * 9, torch.eye(4)[[1]] * 9, torch.eye(4)[[2]] * 9
    labels = torch.tensor([0, 0, 1, 1])
    right = torch.cat([first, first, second, second])
    # On other backgrounds the head of the background is right once, that of shape thrice.
    background = torch.cat([second, none, second, first])
    shape = torch.cat([first, first, second, none])
    same = spell(right, right, right, labels)
    rand = spell(shape, right, background, labels)
    rows = by_prediction(measure_background_gap(Spelt(), same, rand, IN9_OF_CLASS, CPU))
    assert rows["shape"]["background_gap"] == 0.25
    assert rows["texture"]["background_gap"] == 0
    assert rows["background"] == {
        "prediction": "background",
        "mixed_same": 1.0,
        "num_mixed_same": 4,
        "mixed_rand": 0.25,
        "num_mixed_rand": 4,
        "background_gap": 0.75,
    }
    with_original = measure_background_gap(Spelt(), same, rand, IN9_OF_CLASS, CPU, original=rand)
    assert by_prediction(with_original)["shape"]["original"] == 0.75


# --- accuracy and counterfactuals ----------------------------------------------------------------


def test_the_accuracy_of_every_prediction():
    labels = torch.tensor([0, 1, 2])
    eye = torch.eye(3)
    # Shape is right, texture one off, the background two off and louder than both.
    batches = spell(3 * eye, 2 * eye.roll(1, 1), 9 * eye.roll(2, 1), labels)
    rows = by_prediction(measure_accuracy_on_folder(Spelt(), batches, CPU))
    assert {name: row["top_1"] for name, row in rows.items()} == {
        "mean": 0.0,
        "without_background": 1.0,
        "shape": 1.0,
        "texture": 0.0,
        "background": 0.0,
    }
    assert rows["mean"]["top_5"] == 1.0
    assert rows["mean"]["num_images"] == 3


def test_a_folder_with_some_of_the_classes():
    logits = torch.tensor([[5.0, 1.0, 0.0]])
    batches = spell(logits, logits, logits, torch.tensor([1]))
    whole = measure_accuracy_on_folder(Spelt(), batches, CPU)
    restricted = measure_accuracy_on_folder(Spelt(), batches, CPU, classes=torch.tensor([1, 2]))
    assert (whole[0]["top_1"], restricted[0]["top_1"]) == (0.0, 1.0)


def test_heads_are_measured_on_the_class_of_their_own_mechanism():
    eye = torch.eye(8)
    labels = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 0]])
    shape, texture, background = (eye[labels[:, column]] for column in range(3))
    rows = by_prediction(measure_counterfactual_accuracy(Spelt(), spell(shape, texture, background, labels), CPU))
    assert {name: row["top_1"] for name, row in rows.items()} == {"shape": 1.0, "texture": 1.0, "background": 1.0}
    swapped = by_prediction(measure_counterfactual_accuracy(Spelt(), spell(texture, shape, background, labels), CPU))
    assert (swapped["shape"]["top_1"], swapped["background"]["top_1"]) == (0.0, 1.0)
    assert swapped["shape"]["num_images"] == 3


@pytest.mark.parametrize(
    "measure",
    [
        lambda: measure_accuracy_on_folder(Spelt(), [], CPU),
        lambda: measure_shape_bias(Spelt(), [], CATEGORIES, CPU),
        lambda: measure_background_gap(Spelt(), [], [], IN9_OF_CLASS, CPU),
        lambda: measure_counterfactual_accuracy(Spelt(), [], CPU),
    ],
)
def test_nothing_to_measure_on_is_refused(measure):
    with pytest.raises(SettingError, match="images to measure on, got none"):
        measure()


def test_no_number_depends_on_the_batch_size():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 11, 5, generator=generator)
    labels = torch.randint(5, (11,), generator=generator)
    results = [measure_accuracy_on_folder(Spelt(), spell(*logits, labels, size), CPU) for size in (1, 4, 11)]
    assert results[0] == results[1] == results[2]


def test_a_real_ensemble_is_measured_in_eval_mode_without_gradients():
    ensemble = InvariantEnsemble("mobilenet_v3_small", 3, "none").train()
    images, labels = torch.zeros(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    statistics = [buffer.clone() for buffer in ensemble.buffers()]
    for precision in ("fp32", "bf16"):
        compute = Compute(device="cpu", precision=precision)
        ((logits, _),) = predict(ensemble, [(images, labels)], compute)
        assert not logits.shape.requires_grad
        assert logits.shape.dtype == torch.float32
        rows = measure_accuracy_on_folder(ensemble, [(images, labels)], compute)
        assert sum(row["top_1"] in (0.25, 0.5) for row in rows) == len(PREDICTIONS)
    assert all(torch.equal(now, before) for now, before in zip(ensemble.buffers(), statistics, strict=True))
