"""Losses that make a CGN's mechanisms what they are (CGN, arXiv 2101.06046, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def mask_entropy_loss(mask: Tensor) -> Tensor:
    """Mean binary entropy of a mask [N, 1, H, W] in [0, 1], in bits (eq. 6): 0 for a binary mask."""
    return (torch.special.entr(mask) + torch.special.entr(1 - mask)).mean() / math.log(2)


def mask_bounds_loss(mask: Tensor, lowest: float, highest: float) -> Tensor:
    """How far each mask's mean leaves [lowest, highest], averaged (eq. 7)."""
    mean = mask.mean((1, 2, 3))
    return (torch.relu(lowest - mean) + torch.relu(mean - highest)).mean()


def gram_matrix(features: Tensor) -> Tensor:
    """Gram matrices [N, C, C] of features [N, C, h, w], divided by C * h * w (arXiv 1508.06576)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def style_loss(
    generated_features: Sequence[Tensor], real_features: Sequence[Tensor], layer_weights: Sequence[float]
) -> Tensor:
    """Weighted squared difference of the batches' mean Gram matrices, summed over layers.

    The batches are unpaired, so it compares what is common to a batch. Each layer's difference is
    relative to the real Gram matrix's mean square, which makes weights comparable between style
    networks.
    """
    total = generated_features[0].new_zeros(())
    for generated, real, weight in zip(generated_features, real_features, layer_weights, strict=True):
        if weight:
            target = gram_matrix(real).mean(0).detach()
            difference = (gram_matrix(generated).mean(0) - target).square().mean()
            total = total + weight * difference / target.square().mean().clamp_min(1e-12)
    return total


def mode_seeking_loss(first: Tensor, second: Tensor, floor: float) -> Tensor:
    """Keep images of one class apart when their noise is: how far their mean distance is below a floor.

    After MSGAN (arXiv 1903.05628), whose inverse distance never stops pushing; images [N, C, H, W] are
    paired, each pair of one class and of different noise.
    """
    return torch.relu(floor - (first - second).abs().mean((1, 2, 3))).mean()
