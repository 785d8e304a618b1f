"""Distances and scores have their closed forms, and those of torchmetrics."""

from __future__ import annotations

import warnings

import pytest
import torch

from skdcgn_pipeline.metrics.likeness import (
    Gaussian,
    SplitScores,
    StreamedGaussian,
    frechet_distance,
    mask_iou,
    mean_absolute_difference,
)


def gaussian(seed: int, dim: int = 6) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return Gaussian(torch.randn(dim, generator=generator, dtype=torch.float64), root @ root.T)


def gaussian_of(features: torch.Tensor) -> Gaussian:
    return StreamedGaussian().update(features).gaussian()


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mask(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(len(rows), 1, 2, 2)


def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift():
    first = gaussian(0)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    second = Gaussian(first.mean + shift, first.covariance)
    assert frechet_distance(first, second) == pytest.approx(shift.square().sum().item(), rel=1e-6)


def test_frechet_distance_of_scaled_gaussians_has_its_closed_form():
    first = Gaussian(torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 4.0])).double())
    second = Gaussian(torch.zeros(2).double(), torch.diag(torch.tensor([9.0, 16.0])).double())
    assert frechet_distance(first, second) == pytest.approx((1 - 3) ** 2 + (2 - 4) ** 2)


def test_frechet_distance_of_correlated_gaussians_matches_the_matrix_root():
    scipy_linalg = pytest.importorskip("scipy.linalg")
    first, second = gaussian(0), gaussian(1)
    root = scipy_linalg.sqrtm((first.covariance @ second.covariance).numpy()).real
    expected = (first.mean - second.mean).square().sum() + (first.covariance + second.covariance).trace()
    assert frechet_distance(first, second) == pytest.approx(expected.item() - 2 * root.trace(), rel=1e-6)


def test_frechet_distance_to_itself_is_zero():
    assert frechet_distance(gaussian(0), gaussian(0)) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_is_symmetric():
    there, back = frechet_distance(gaussian(0), gaussian(1)), frechet_distance(gaussian(1), gaussian(0))
    assert there == pytest.approx(back, rel=1e-6)
    assert there > 0


def test_constant_features_have_a_distance():
    constant = gaussian_of(torch.ones(20, 3))
    varied = gaussian_of(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)))
    assert frechet_distance(constant, constant) == 0
    expected = (varied.mean - 1).square().sum() + varied.covariance.trace()
    assert frechet_distance(constant, varied) == pytest.approx(expected.item(), rel=1e-6)


def test_statistics_are_mean_and_covariance_in_double_precision():
    features = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 2.0]])
    statistics = gaussian_of(features)
    assert statistics.mean.tolist() == [2.0, 2.0]
    assert statistics.covariance.tolist() == [[4.0, 1.0], [1.0, 1.0]]
    assert statistics.covariance.dtype == torch.float64


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (mask([1, 1, 0, 0]), mask([1, 1, 0, 0]), 1),
        (mask([1, 1, 0, 0]), mask([0, 0, 1, 1]), 0),
        (mask([1, 1, 0, 0]), mask([0, 1, 1, 0]), 1 / 3),
        (mask([1, 1, 1, 1]), mask([1, 0, 0, 0]), 1 / 4),
        (mask([0, 0, 0, 0]), mask([0, 0, 0, 0]), 1),
        (mask([0, 0, 0, 0]), mask([1, 0, 0, 0]), 0),
        (mask([1, 1, 0, 0], [1, 1, 0, 0]), mask([1, 1, 0, 0], [0, 0, 1, 1]), 1 / 2),
    ],
)
def test_mask_overlap_has_its_closed_form(student, teacher, expected):
    assert mask_iou(student, teacher) == pytest.approx(expected)
    assert mask_iou(teacher, student) == pytest.approx(expected)


def test_masks_are_cut_at_a_half():
    assert mask_iou(mask([1, 1, 0, 0]) * 0.6, mask([1, 1, 0, 0]) * 0.51) == 1
    assert mask_iou(mask([1, 1, 0, 0]) * 0.49, mask([1, 1, 0, 0])) == 0


def test_the_mean_difference_is_in_units_of_the_range():
    assert mean_absolute_difference(torch.tensor([1.0, -1.0]), torch.tensor([0.5, -0.5])) == 0.5
    assert mean_absolute_difference(torch.ones(3), torch.ones(3)) == 0


# --- Frechet distance ----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(30,), (1, 29), (7, 11, 12), (0, 30)])
def test_streamed_statistics_are_those_of_all_features_together(sizes):
    features = numbers(30, 4) + 1000  # far from zero, where sums of squares lose their digits
    streamed = StreamedGaussian()
    for part in features.split(list(sizes)):
        streamed.update(part)
    expected = Gaussian(features.double().mean(0), torch.cov(features.double().T))
    assert streamed.count == 30
    torch.testing.assert_close(streamed.gaussian().mean, expected.mean)
    torch.testing.assert_close(streamed.gaussian().covariance, expected.covariance, rtol=1e-9, atol=1e-9)


# --- inception score -----------------------------------------------------------------------------


def score_of(logits: torch.Tensor, num_splits: int = 1, batch: int = 7) -> tuple[float, float]:
    scores = SplitScores(len(logits), num_splits, seed=0)
    for part in logits.split(batch):
        scores.update(part)
    return scores.score()


def test_sure_and_varied_predictions_score_the_number_of_classes():
    assert score_of(100 * torch.eye(5).repeat(4, 1))[0] == pytest.approx(5)


def test_the_same_prediction_for_every_image_scores_one():
    assert score_of(numbers(1, 5).expand(20, 5))[0] == pytest.approx(1)
    assert score_of(torch.zeros(20, 5))[0] == pytest.approx(1)


def test_half_of_the_classes_score_half():
    assert score_of(100 * torch.eye(6)[torch.arange(18) % 3])[0] == pytest.approx(3)


def test_the_score_is_that_of_torchmetrics():
    logits = 3 * numbers(40, 6)
    metrics = pytest.importorskip("torchmetrics.image.inception")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one split has no standard deviation there
        metric = metrics.InceptionScore(feature=torch.nn.Identity(), splits=1)
        metric.update(logits)
        expected = metric.compute()[0].item()
    assert score_of(logits) == (pytest.approx(expected, rel=1e-5), 0)


def test_splits_are_random_equal_and_scored_apart():
    logits = 3 * numbers(21, 6)
    scores = SplitScores(21, 4, seed=1)
    scores.update(logits)
    assert sorted(scores._count.tolist()) == [5, 5, 5, 6]
    parts = [score_of(logits[scores._split_of == split])[0] for split in range(4)]
    mean, deviation = scores.score()
    assert mean == pytest.approx(sum(parts) / 4)
    assert deviation == pytest.approx(torch.tensor(parts).std(correction=0).item(), rel=1e-4)


def test_there_are_at_most_as_many_splits_as_images():
    assert score_of(numbers(3, 4), num_splits=10) == (pytest.approx(1), pytest.approx(0, abs=1e-9))


@pytest.mark.parametrize("shift", [0, 1000])
def test_the_distance_is_that_of_torchmetrics_where_squares_keep_their_digits(shift):
    metrics = pytest.importorskip("torchmetrics.image.fid")
    first, second = numbers(50, 5) + shift, 2 * numbers(50, 5, seed=1) + shift + 0.5
    mine, theirs = gaussian_of(first), gaussian_of(second)
    expected = metrics._compute_fid(mine.mean, mine.covariance, theirs.mean, theirs.covariance).item()
    assert frechet_distance(mine, theirs) == pytest.approx(expected, rel=1e-6)
