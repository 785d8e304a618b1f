"""Distances have their closed forms."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.metrics.fidelity import (
    GaussianStatistics,
    extract_features,
    frechet_distance,
    gaussian_statistics,
    mask_iou,
    mean_absolute_difference,
)


def gaussian(seed: int, dim: int = 6) -> GaussianStatistics:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return GaussianStatistics(torch.randn(dim, generator=generator, dtype=torch.float64), root @ root.T)


def mask(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(len(rows), 1, 2, 2)


def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift():
    first = gaussian(0)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    second = GaussianStatistics(first.mean + shift, first.covariance)
    assert frechet_distance(first, second) == pytest.approx(shift.square().sum().item(), rel=1e-6)


def test_frechet_distance_of_scaled_gaussians_has_its_closed_form():
    first = GaussianStatistics(torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 4.0])).double())
    second = GaussianStatistics(torch.zeros(2).double(), torch.diag(torch.tensor([9.0, 16.0])).double())
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
    constant = gaussian_statistics(torch.ones(20, 3))
    varied = gaussian_statistics(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)))
    assert frechet_distance(constant, constant) == 0
    expected = (varied.mean - 1).square().sum() + varied.covariance.trace()
    assert frechet_distance(constant, varied) == pytest.approx(expected.item(), rel=1e-6)


def test_statistics_are_mean_and_covariance_in_double_precision():
    features = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 2.0]])
    statistics = gaussian_statistics(features)
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


def test_features_do_not_depend_on_the_batches(cpu):
    torch.manual_seed(0)
    network = DigitClassifier().eval()
    images = torch.randn(7, 3, 32, 32)
    together = extract_features(network, images, cpu)
    assert together.shape == (7, 64)
    torch.testing.assert_close(extract_features(network, images, cpu, batch_size=2), together)


def test_masks_are_seen_as_grey_images(cpu):
    torch.manual_seed(0)
    network = DigitClassifier().eval()
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(
        extract_features(network, images, cpu), extract_features(network, images.expand(-1, 3, -1, -1), cpu)
    )
