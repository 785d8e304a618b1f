"""Pixels that are made up from those that are known."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.images.inpainting import erode, fill_unknown


@pytest.fixture
def images() -> torch.Tensor:
    """Stripes of 4 pixels, red and blue, and noise."""
    stripes = (torch.arange(48) // 4 % 2).float().expand(48, 48)
    striped = torch.stack([2 * stripes - 1, -torch.ones(48, 48), 1 - 2 * stripes])
    return torch.stack([striped, torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1])


@pytest.fixture
def known() -> torch.Tensor:
    known = torch.ones(2, 1, 48, 48, dtype=torch.bool)
    known[:, :, 14:32, 15:30] = False
    return known


def test_what_is_known_stays_and_what_is_not_counts_for_nothing(images, known):
    filled = fill_unknown(images, known)
    again = fill_unknown(torch.where(known, images, 7.0), known)
    assert torch.equal(filled.where(known, 0.0), images.where(known, 0.0))
    assert torch.equal(filled, again)
    assert filled.abs().max() <= 1


def test_a_texture_goes_on_in_a_hole(images, known):
    hole = ~known[0].expand(3, -1, -1)
    wrong = (fill_unknown(images, known)[0] - images[0])[hole].abs() > 0.5
    assert wrong.float().mean() < 0.15


def test_an_image_is_filled_the_same_beside_any_other(images, known):
    together = fill_unknown(images, known)
    assert torch.equal(together[1:], fill_unknown(images[1:], known[1:]))
    assert torch.equal(together.flip(0), fill_unknown(images.flip(0), known))


@pytest.mark.parametrize("size", [7, 33, 48])
@pytest.mark.parametrize("num_known", [0, 1])
def test_next_to_nothing_may_be_known(size, num_known):
    images, known = torch.full((1, 3, size, size), 0.5), torch.zeros(1, 1, size, size, dtype=torch.bool)
    known[..., : num_known and 1, 0] = True
    assert torch.equal(fill_unknown(images, known), torch.full_like(images, 0.5 * num_known))


def test_masks_lose_their_edge():
    mask = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    mask[..., 2:7, 2:9] = True
    assert erode(mask, 1).sum() == 3 * 6, "the border of an image is no edge"
    assert not erode(mask, 3).any()
