"""Adversarial losses: hinge for the students, least squares for the CGN teacher."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def hinge_discriminator_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Hinge loss of the discriminator: teacher images above 1, student images below -1.

    Source: geometric GAN (arXiv 1705.02894), as used by TinyGAN (arXiv 2009.13829, eq. 6).
    Logits are [N].
    """
    return F.relu(1 - teacher_logits).mean() + F.relu(1 + student_logits).mean()


def hinge_generator_loss(student_logits: Tensor) -> Tensor:
    """Hinge loss of the generator: raise the student images' logits [N]."""
    return -student_logits.mean()


def least_squares_discriminator_loss(generated_scores: Tensor, real_scores: Tensor) -> Tensor:
    """Least-squares loss of the discriminator (LSGAN, arXiv 1611.04076, eq. 9): real 1, generated 0."""
    return 0.5 * ((real_scores - 1).square().mean() + generated_scores.square().mean())


def least_squares_generator_loss(generated_scores: Tensor) -> Tensor:
    """Least-squares loss of the generator: generated images should score 1."""
    return (generated_scores - 1).square().mean()
