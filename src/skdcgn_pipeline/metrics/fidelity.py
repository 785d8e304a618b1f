"""How alike the images of student and teacher are: features -> statistics -> distance."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.compute import autocast, choose_device

MASK_THRESHOLD = 0.5


def mean_absolute_difference(student_images: Tensor, teacher_images: Tensor) -> float:
    """Mean L1 distance of images, in units of their range."""
    return (student_images.double() - teacher_images.double()).abs().mean().item()


def mask_iou(student_mask: Tensor, teacher_mask: Tensor) -> float:
    """Mean over images of intersection over union, of masks [N, 1, H, W] cut at 0.5.

    Two empty masks agree fully.
    """
    student, teacher = (mask.flatten(1) > MASK_THRESHOLD for mask in (student_mask, teacher_mask))
    intersection = (student & teacher).sum(1).double()
    union = (student | teacher).sum(1).double()
    return torch.where(union > 0, intersection / union.clamp_min(1), torch.ones_like(union)).mean().item()


class GaussianStatistics(NamedTuple):
    """Mean [D] and covariance [D, D] of features, in double precision."""

    mean: Tensor
    covariance: Tensor


class FeatureExtractor(Protocol):
    """A module in whose features images are compared."""

    def features(self, images: Tensor) -> Tensor:
        """Return features [N, D] of images [N, 3, H, W] in [-1, 1]."""
        ...


@torch.no_grad()
def extract_features(network: FeatureExtractor, images: Tensor, compute: Compute, batch_size: int = 256) -> Tensor:
    """Return the network's pooled features [N, D] of images [N, 1 or 3, H, W] in [-1, 1]."""
    device = choose_device(compute.device)
    assert isinstance(network, nn.Module)
    network.to(device)
    features = []
    for batch in images.split(batch_size):
        with autocast(compute, device):
            features.append(network.features(batch.to(device).expand(-1, 3, -1, -1)).float().cpu())
    network.to("cpu")
    return torch.cat(features)


def gaussian_statistics(features: Tensor) -> GaussianStatistics:
    """Return mean and covariance of features [N, D]."""
    features = features.double()
    return GaussianStatistics(features.mean(0), torch.cov(features.T))


class StreamedGaussian:
    """Mean and covariance of features that come in batches; memory stays at [D, D] in double precision.

    Batches are joined by the parallel form of the variance (Chan, Golub and LeVeque 1983), which keeps its
    digits where means are far from zero.

    Attributes:
        count: Images seen.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._scatter = torch.zeros(())

    def update(self, features: Tensor) -> None:
        """Add the features [N, D] of N images."""
        if not len(features):
            return
        features = features.double()
        mean, total = features.mean(0), self.count + len(features)
        centred = features - mean
        scatter = centred.T @ centred
        if not self.count:
            self._mean, self._scatter = mean, scatter
        else:
            step = mean - self._mean
            self._mean = self._mean + step * (len(features) / total)
            self._scatter += scatter + torch.outer(step, step) * (self.count * len(features) / total)
        self.count = total

    def statistics(self) -> GaussianStatistics:
        """Return what `gaussian_statistics` returns for all features together; needs two images."""
        return GaussianStatistics(self._mean, self._scatter / (self.count - 1))


def frechet_distance(first: GaussianStatistics, second: GaussianStatistics) -> float:
    """Squared Frechet distance of two Gaussians (arXiv 1706.08500, eq. 6).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is the sum of the roots of the
    eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric and stays well-behaved where features are
    constant.
    """
    values, vectors = torch.linalg.eigh(first.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    product = root @ second.covariance @ root
    trace_of_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    difference = (first.mean - second.mean).square().sum()
    distance = difference + first.covariance.trace() + second.covariance.trace() - 2 * trace_of_root
    return max(0.0, distance.item())
