"""How alike images are: L1, mask IoU, Frechet distance of features, the inception score.

Everything streams: sums by batch, in double precision. torchmetrics has FID and IS, too, but sums squares (which loses
digits where features are far from zero) and draws its splits from torch's global generator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skdcgn_pipeline.runtime.seeding import torch_generator

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


class Gaussian(NamedTuple):
    """Mean [D] and covariance [D, D] of features, in double precision."""

    mean: Tensor
    covariance: Tensor


class StreamedGaussian:
    """Mean and covariance of features that come in batches; memory stays at [D, D] in double precision.

    Batches are joined by the parallel form of the variance (Chan, Golub and LeVeque 1983), which keeps its
    digits where means are far from zero.

    Attributes:
        count: Images seen.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._scatter = torch.zeros((), dtype=torch.double)

    def update(self, features: Tensor) -> StreamedGaussian:
        """Add the features [N, D] of N images."""
        if len(features):
            features = features.double()
            mean, total = features.mean(0), self.count + len(features)
            centred, step = features - mean, mean - self._mean
            self._mean = self._mean + step * (len(features) / total)
            between = torch.outer(step, step) * (self.count * len(features) / total)
            self._scatter = self._scatter + centred.T @ centred + between
            self.count = total
        return self

    def gaussian(self) -> Gaussian:
        """Return mean and unbiased covariance; needs two images."""
        return Gaussian(self._mean, self._scatter / (self.count - 1))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
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


class SplitScores:
    """Inception score by splits, exp(E_x KL(p(y|x) || p(y))) (arXiv 1606.03498, section 4).

    Images go to splits of equal size at random; of each split two sums are kept.

    Args:
        num_images: How many will come.
        num_splits: How many splits; at most as many as images.
        seed: Of the assignment.
    """

    def __init__(self, num_images: int, num_splits: int, seed: int) -> None:
        num_splits = min(num_splits, num_images)
        order = torch.randperm(num_images, generator=torch_generator(seed, "inception-splits"))
        self._split_of = order % num_splits
        self._seen = 0
        self._count = torch.zeros(num_splits, dtype=torch.double)
        self._negative_entropy = torch.zeros(num_splits, dtype=torch.double)
        self._probability = torch.zeros(num_splits, 1, dtype=torch.double)

    def update(self, logits: Tensor) -> None:
        """Add the logits [N, K] of the next N images."""
        log_p = logits.double().log_softmax(1)
        split = self._split_of[self._seen : self._seen + len(logits)]
        self._seen += len(logits)
        self._count.index_add_(0, split, torch.ones(len(split), dtype=torch.double))
        self._negative_entropy.index_add_(0, split, (log_p.exp() * log_p).sum(1))
        self._probability = self._probability.expand(-1, logits.shape[1]).index_add(0, split, log_p.exp())

    def score(self) -> tuple[float, float]:
        """Return mean and standard deviation over the splits; 1 is the worst score, K the best."""
        mean = self._probability / self._count[:, None]
        # entr is -p log p, and 0 where p is.
        divergence = self._negative_entropy / self._count + torch.special.entr(mean).sum(1)
        scores = divergence.clamp_min(0).exp()
        return scores.mean().item(), scores.std(correction=0).item()
