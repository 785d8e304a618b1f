"""Images taken out of many, decoded and shifted in one pass."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.kernels.taking import take_decoded
from skdcgn_pipeline.mechanisms import shift_patches
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.pixels import decode_images, take_decoded_images

ROWS = torch.tensor([4, 4, 0, 8, 3])
OFFSETS = torch.tensor([[0, 0], [3, 5], [8, 6], [7, 0], [0, 1]])


def draw(channels: int = 3, height: int = 8, width: int = 6) -> torch.Tensor:
    size = (9, channels, height, width)
    return torch.randint(0, 256, size, generator=torch.manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(("mechanism", "channels"), [("shape", 1), ("texture", 3), ("background", 3)])
@pytest.mark.parametrize("size", [(8, 6), (32, 32), (40, 67)])
def test_images_are_those_of_one_step_after_the_other_to_the_bit(mechanism, channels, size):
    images = draw(channels, *size)
    expected = decode_images(mechanism, images[ROWS])
    assert torch.equal(take_decoded_images(mechanism, images, ROWS), expected)
    assert torch.equal(take_decoded_images(mechanism, images, ROWS, OFFSETS), shift_patches(expected, OFFSETS))


def test_every_byte_is_decoded_to_the_bit():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    row = torch.tensor([0])
    for mechanism in ("shape", "texture"):
        assert torch.equal(take_decoded_images(mechanism, images, row), decode_images(mechanism, images))


def test_images_in_any_layout_are_the_same():
    images = draw()
    other = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(take_decoded(other, ROWS, 0.5, -1, OFFSETS), take_decoded(images, ROWS, 0.5, -1, OFFSETS))


def test_floating_point_images_are_taken_as_they_are():
    images = draw().float() / 7 - 9
    assert torch.equal(take_decoded(images, ROWS, 1, 0), images[ROWS])


def test_no_rows_are_no_images():
    assert take_decoded(draw(), ROWS[:0], 1, 0).shape == (0, 3, 8, 6)
    assert take_decoded(draw(), ROWS[:0], 1, 0, OFFSETS[:0]).shape == (0, 3, 8, 6)


@pytest.mark.parametrize(("row", "offset"), [(9, [0, 0]), (-1, [0, 0]), (0, [9, 0]), (0, [0, 7]), (0, [-1, 0])])
def test_what_is_beyond_the_images_is_refused(row, offset):
    rows, offsets = torch.tensor([1, row]), torch.tensor([[0, 0], offset])
    with pytest.raises(SettingError, match=rf"rows: expected rows below 9 .*got \[{row}, "):
        take_decoded(draw(), rows, 1, 0, offsets)
