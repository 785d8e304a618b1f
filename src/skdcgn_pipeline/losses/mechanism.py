"""Losses that make a CGN's mechanisms what they are (CGN, arXiv 2101.06046, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


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
    generated_features: Sequence[Tensor],
    real_features: Sequence[Tensor],
    layer_weights: Sequence[float],
    paired: bool = False,
) -> Tensor:
    """Weighted squared difference of the batches' mean Gram matrices, summed over layers.

    The batches are unpaired, so it compares what is common to a batch; `paired` compares image by image
    instead. Each layer's difference is relative to the real Gram matrix's mean square, which makes weights
    comparable between style networks.
    """
    total = generated_features[0].new_zeros(())
    for generated, real, weight in zip(generated_features, real_features, layer_weights, strict=True):
        if weight:
            mine, target = gram_matrix(generated), gram_matrix(real).detach()
            if not paired:
                mine, target = mine.mean(0), target.mean(0)
            difference = (mine - target).square().mean()
            total = total + weight * difference / target.square().mean().clamp_min(1e-12)
    return total


def mode_seeking_loss(first: Tensor, second: Tensor, floor: float) -> Tensor:
    """Keep images of one class apart when their noise is: how far their mean distance is below a floor.

    After MSGAN (arXiv 1903.05628), whose inverse distance never stops pushing; images [N, C, H, W] are
    paired, each pair of one class and of different noise.
    """
    return torch.relu(floor - (first - second).abs().mean((1, 2, 3))).mean()


# Windows whose mean mask comes this near to the image's highest count as inside of the object.
NEAR_HIGHEST = 0.9


@torch.no_grad()
def texture_patches(images: Tensor, mask: Tensor, patch_size: int, generator: torch.Generator) -> Tensor:
    """Fill images with patches of their object: what a foreground's texture should look like (section 3.2).

    Patches are drawn uniformly among the windows whose mean mask is at least 0.9 of the highest, and put side by
    side. Where they are drawn has no gradient, so the texture loss cannot shrink the mask.

    Args:
        images: [N, 3, H, W].
        mask: [N, 1, H, W] in [0, 1], of the same object.
        patch_size: Height and width of a patch; divides H and W.
        generator: CPU generator of the draws.

    Returns:
        [N, 3, H, W], H / patch_size by W / patch_size patches of each image, without gradient.
    """
    num_images, channels, height, width = images.shape
    scores = F.avg_pool2d(mask.float(), patch_size, stride=1)
    columns = scores.shape[3]
    scores = scores.flatten(1)
    inside = scores >= NEAR_HIGHEST * scores.amax(1, keepdim=True)
    ranks = inside.cumsum(1)  # the window number k of those inside is where this reaches k
    grid = height // patch_size, width // patch_size
    draws = torch.rand(num_images, grid[0] * grid[1], generator=generator).to(images.device)
    counts = ranks[:, -1:]
    # The largest draw may round up; without a window, where a mask is not finite, the first is taken.
    window = torch.searchsorted(ranks, (draws * counts).long().minimum(counts - 1) + 1)  # [N, patches]
    steps = torch.arange(patch_size, device=images.device)
    rows = (window // columns)[:, :, None, None] + steps[:, None]  # [N, patches, patch_size, 1]
    pixels = rows * width + (window % columns)[:, :, None, None] + steps
    taken = images.flatten(2).gather(2, pixels.view(num_images, 1, -1).expand(-1, channels, -1))
    taken = taken.view(num_images, channels, *grid, patch_size, patch_size)
    return taken.permute(0, 1, 2, 4, 3, 5).reshape(images.shape)


def background_saliency_loss(saliency: Tensor) -> Tensor:
    """Mean of what a detector of salient objects [N, 1, H, W] in [0, 1] finds in backgrounds (section 3.2)."""
    return saliency.mean()
