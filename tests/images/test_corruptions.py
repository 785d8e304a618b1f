"""Corruptions follow their formulas, and no image depends on the others."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from skdcgn_pipeline.images.corruptions import STRENGTHS, corrupt, corrupt_split
from skdcgn_pipeline.images.image_set import ImagesInMemory, Split
from skdcgn_pipeline.parameters import CorruptionName
from skdcgn_pipeline.runtime.seeding import torch_generator

NAMES = get_args(CorruptionName)


def corrupted(images: Tensor, name: CorruptionName, value: float) -> Tensor:
    return corrupt(images, name, value, [torch_generator(0, "test", number) for number in range(len(images))])


def pictures(number: int = 6, channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(number, channels, size, size, generator=torch_generator(1, "test")) * 2 - 1


@pytest.mark.parametrize("name", NAMES)
def test_every_corruption_has_five_strengths_that_grow(name):
    step = 1 if STRENGTHS[name][0] < STRENGTHS[name][-1] else -1
    assert len(STRENGTHS[name]) == 5
    assert [*STRENGTHS[name]][::step] == sorted(STRENGTHS[name])
    smooth = torch.linspace(-1, 1, 32).expand(4, 3, 32, 32)  # far pixels differ more than near ones
    changes = [(corrupted(smooth, name, value) - smooth).abs().mean().item() for value in STRENGTHS[name]]
    assert changes == sorted(changes)
    assert changes[0] > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (3, 8), (1, 45)])
def test_shape_and_range_stay(name, channels, size):
    images = pictures(2, channels, size).sign()
    for value in STRENGTHS[name]:
        changed = corrupted(images, name, value)
        assert changed.shape == images.shape
        assert changed.abs().max() <= 1


@pytest.mark.parametrize("value", STRENGTHS["noise"])
def test_noise_has_the_standard_deviation_that_is_asked_for(value):
    noise = corrupted(torch.zeros(20, 3, 32, 32), "noise", value / 4)  # nothing to clip
    assert noise.mean().abs() < 0.01 * value
    assert noise.std().item() == pytest.approx(2 * value / 4, rel=0.02)
    assert (noise[0] - noise[1]).abs().max() > 0


@pytest.mark.parametrize("size", [32, 64])
def test_blur_spreads_an_impulse_and_keeps_its_sum(size):
    impulse = torch.full((1, 3, size, size), -1.0)
    impulse[..., size // 2, size // 2] = 1
    distance = (torch.arange(size) - size // 2).square()
    widths = []
    for value in STRENGTHS["blur"]:
        weights = (corrupted(impulse, "blur", value)[0, 0] + 1) / 2
        assert weights.sum().item() == pytest.approx(1, abs=1e-3)
        widths.append((weights.sum(0) * distance).sum().sqrt().item() / size)
    # The filter ends at three standard deviations, and is sampled at whole pixels.
    assert widths == pytest.approx(STRENGTHS["blur"], rel=0.07)


@pytest.mark.parametrize("value", [1.0, 0.4, 0.0])
def test_contrast_is_linear_around_the_mean_colour(value):
    images = pictures()
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(corrupted(images, "contrast", value), mean + value * (images - mean))


@pytest.mark.parametrize(("size", "pixels"), [(28, (1, 2, 3, 4, 5)), (32, (1, 2, 3, 5, 6)), (8, (1, 1, 1, 1, 1))])
def test_shift_moves_pixels_in_all_four_directions_and_continues_the_edge(size, pixels):
    images = pictures(24, 1, size)
    for value, n in zip(STRENGTHS["shift"], pixels, strict=True):
        seen = set()
        for image, moved in zip(images[:, 0], corrupted(images, "shift", value)[:, 0], strict=True):
            read = {(down, right): shifted_rows(image, down, right) for down in (-n, n) for right in (-n, n)}
            (direction,) = [direction for direction, expected in read.items() if torch.equal(moved, expected)]
            seen.add(direction)
        assert len(seen) == 4


def shifted_rows(image: Tensor, down: int, right: int) -> Tensor:
    """Read each pixel where it was, or at the nearest edge."""
    numbers = torch.arange(len(image))
    rows, columns = ((numbers - moved).clamp(0, len(image) - 1) for moved in (down, right))
    return image[rows][:, columns]


@pytest.mark.parametrize("name", NAMES)
def test_no_image_depends_on_batch_or_order(name):
    images = ((pictures(9) + 1) * 127.5).round().to(torch.uint8)
    split = Split("test", "test", ImagesInMemory(images), torch.arange(9))
    rows, other = (corrupt_split(split, name, 3, seed).rows for seed in (0, 1))
    whole = rows.take(torch.arange(9))
    assert whole.dtype == torch.uint8
    order = torch.tensor([5, 0, 8])
    assert torch.equal(rows.take(order), whole[order])
    assert torch.equal(torch.cat([rows.take(batch) for batch in torch.arange(9).split(2)]), whole)
    assert torch.equal(other.take(torch.arange(9)), whole) == (name in ("blur", "contrast"))
    assert len(rows) == 9
