"""Losses that make a CGN's mechanisms what they are."""

from __future__ import annotations

import math

import pytest
import torch

from skdcgn_pipeline.losses.mechanism import (
    background_saliency_loss,
    gram_matrix,
    mask_bounds_loss,
    mask_entropy_loss,
    mode_seeking_loss,
    style_loss,
    texture_patches,
)


def mask_of(*means: float) -> torch.Tensor:
    return torch.tensor(means).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


def features(seed: int, num_images: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_images, channels, 5, 5, generator=generator) for channels in (2, 3, 4, 5)]


# --- masks ---------------------------------------------------------------------------------------


def test_entropy_of_an_undecided_mask_is_one_bit():
    assert mask_entropy_loss(mask_of(0.5)).item() == pytest.approx(1)


def test_entropy_of_a_binary_mask_is_zero():
    assert mask_entropy_loss(mask_of(0.0, 1.0)).item() == pytest.approx(0, abs=1e-6)


def test_entropy_of_a_clamped_binary_mask_is_nearly_zero():
    assert mask_entropy_loss(mask_of(1e-4, 0.9999)).item() == pytest.approx(0, abs=2e-3)


def test_entropy_is_that_of_a_coin():
    expected = -(0.2 * math.log2(0.2) + 0.8 * math.log2(0.8))
    assert mask_entropy_loss(mask_of(0.2, 0.8)).item() == pytest.approx(expected, rel=1e-5)


def test_entropy_pushes_a_mask_away_from_a_half():
    mask = torch.tensor([0.3, 0.7]).view(2, 1, 1, 1).requires_grad_()
    mask_entropy_loss(mask).backward()
    assert mask.grad[0].item() > 0 > mask.grad[1].item()


def test_masks_within_their_bounds_cost_nothing():
    assert mask_bounds_loss(mask_of(0.1, 0.3, 0.5), 0.1, 0.5).item() == pytest.approx(0, abs=1e-7)


def test_masks_beyond_their_bounds_cost_their_distance():
    assert mask_bounds_loss(mask_of(0.05, 0.7, 0.3), 0.1, 0.5).item() == pytest.approx((0.05 + 0.2) / 3, rel=1e-4)


def test_bounds_are_those_of_each_mask_and_not_of_their_mean():
    assert mask_bounds_loss(mask_of(0.0, 1.0), 0.4, 0.6).item() == pytest.approx(0.4)


def test_masks_that_are_far_apart_are_left_alone():
    assert mode_seeking_loss(mask_of(0.1), mask_of(0.5), 0.3).item() == 0


def test_equal_masks_cost_the_whole_floor_and_are_pushed_apart():
    assert mode_seeking_loss(mask_of(0.4), mask_of(0.4), 0.3).item() == pytest.approx(0.3)
    first = mask_of(0.4).clone().requires_grad_()
    mode_seeking_loss(first, mask_of(0.3), 0.3).backward()
    assert (first.grad < 0).all()


def test_the_floor_is_that_of_each_pair_and_not_of_their_mean():
    assert mode_seeking_loss(mask_of(0.0, 0.0), mask_of(0.0, 1.0), 0.2).item() == pytest.approx(0.1)


# --- style ---------------------------------------------------------------------------------------


def test_a_gram_matrix_is_symmetric_and_divided_by_its_size():
    images = features(0)[1]
    gram = gram_matrix(images)
    assert gram.shape == (6, 3, 3)
    torch.testing.assert_close(gram, gram.transpose(1, 2))
    assert gram[2, 0, 1].item() == pytest.approx((images[2, 0] * images[2, 1]).sum().item() / 75, rel=1e-4)


def test_style_of_the_same_batch_costs_nothing():
    assert style_loss(features(0), features(0), [0.1, 0.2, 0.3, 0.4]).item() == 0


def test_style_does_not_see_the_order_of_a_batch_nor_of_pixels():
    other = [layer.flip(0).flip(3) for layer in features(0)]
    assert style_loss(features(0), other, [0.1, 0.2, 0.3, 0.4]).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("layer", range(4))
def test_the_weight_of_every_layer_of_style_matters(layer):
    weights = [0.0] * 4
    weights[layer] = 1.0
    once = style_loss(features(0), features(1), weights).item()
    assert once > 0
    weights[layer] = 2.0
    assert style_loss(features(0), features(1), weights).item() == pytest.approx(2 * once)


def test_the_gradient_of_style_reaches_the_generated_batch_only():
    generated, real = ([layer.requires_grad_() for layer in features(seed)] for seed in (0, 1))
    style_loss(generated, real, [1.0, 1.0, 1.0, 1.0]).backward()
    assert all(layer.grad.abs().sum() > 0 for layer in generated)
    assert all(layer.grad is None for layer in real)


def test_style_does_not_depend_on_the_scale_of_the_style_network():
    once = style_loss(features(0), features(1), [1.0] * 4).item()
    scaled = [[7 * layer for layer in features(seed)] for seed in (0, 1)]
    assert style_loss(*scaled, [1.0] * 4).item() == pytest.approx(once, rel=1e-4)


def test_style_of_silent_features_is_finite():
    silent = [torch.zeros_like(layer) for layer in features(0)]
    assert style_loss(silent, silent, [1.0] * 4).item() == 0


def test_paired_style_compares_image_by_image():
    own, swapped = features(0), [layer.roll(1, 0) for layer in features(0)]
    assert style_loss(own, swapped, [1.0] * 4).item() == pytest.approx(0, abs=1e-10)
    assert style_loss(own, swapped, [1.0] * 4, paired=True).item() > 0.1
    assert style_loss(own, own, [1.0] * 4, paired=True).item() == 0


# --- texture patches and saliency ----------------------------------------------------------------


def numbered_pixels(num_images: int = 2, size: int = 8) -> torch.Tensor:
    """Images whose three channels are the number of the image, the row and the column."""
    image, row, column = torch.meshgrid(torch.arange(num_images), torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack([image, row, column], 1).float()


def test_patches_are_whole_windows_of_their_own_image_inside_of_the_mask():
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :4] = 1
    mask[1, :, 3:, 4:] = 1
    patches = texture_patches(numbered_pixels(), mask, 2, torch.Generator().manual_seed(0))
    assert patches.shape == (2, 3, 8, 8)
    assert (patches[:, 0] == torch.tensor([0, 1])[:, None, None]).all()
    assert patches[0, 1].max() <= 3
    assert patches[1, 1].min() >= 3
    assert patches[1, 2].min() >= 4
    # Neighbours inside of a patch are neighbours in the image.
    assert (patches[:, 1, 1::2] - patches[:, 1, ::2] == 1).all()
    assert (patches[:, 2, :, 1::2] - patches[:, 2, :, ::2] == 1).all()


def test_patches_come_from_everywhere_inside_of_the_mask():
    mask = torch.zeros(1, 1, 8, 8)
    mask[:, :, 2:6, 2:6] = 1
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([texture_patches(numbered_pixels(1), mask, 2, generator) for _ in range(20)])
    corners = set(map(tuple, drawn[:, 1:, ::2, ::2].permute(0, 2, 3, 1).reshape(-1, 2).int().tolist()))
    assert corners == {(row, column) for row in range(2, 5) for column in range(2, 5)}


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, math.nan])
def test_a_flat_mask_gives_patches_of_the_whole_image(value):
    mask = torch.full((1, 1, 8, 8), value)
    patches = texture_patches(numbered_pixels(1), mask, 4, torch.Generator().manual_seed(1))
    assert patches[0, 1].min() >= 0
    assert patches[0, 1].max() <= 7


def test_patches_have_no_gradient_and_follow_the_generator():
    images, mask = numbered_pixels().requires_grad_(), mask_of(0.4, 0.6).repeat(1, 1, 2, 2).requires_grad_()
    first, again, other = (texture_patches(images, mask, 2, torch.Generator().manual_seed(n)) for n in (0, 0, 1))
    assert not first.requires_grad
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_saliency_of_a_background_is_pushed_down():
    saliency = torch.tensor([0.2, 0.6]).view(2, 1, 1, 1).requires_grad_()
    loss = background_saliency_loss(saliency)
    loss.backward()
    assert loss.item() == pytest.approx(0.4)
    assert (saliency.grad == 0.5).all()
