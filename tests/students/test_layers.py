"""Layers that double the resolution equal the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from skdcgn_pipeline.students.layers import (
    phase_weights,
    pixel_shuffle,
    upsampled_convolution,
)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 4, 5, 2, 7), (2, 6, 4, 8, 8)])
def test_an_upsampled_convolution_is_nearest_then_convolution_in_value_and_gradient(shape, layout):
    num_images, channels_in, channels_out, height, width = shape
    torch.manual_seed(0)
    images = torch.randn(num_images, channels_in, height, width, dtype=torch.double).to(memory_format=layout)
    weight = torch.randn(channels_out, channels_in, 3, 3, dtype=torch.double)
    mine = [images.clone().requires_grad_(), weight.clone().requires_grad_()]
    plain = [images.clone().requires_grad_(), weight.clone().requires_grad_()]
    enlarged = upsampled_convolution(mine[0], phase_weights(mine[1]))
    expected = F.conv2d(F.interpolate(plain[0], scale_factor=2.0, mode="nearest"), plain[1], padding=1)
    torch.testing.assert_close(enlarged, expected)
    direction = torch.randn_like(expected)
    enlarged.backward(direction)
    expected.backward(direction)
    for one, other in zip(mine, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("channels", [4, 12])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_pixel_shuffle_is_torchs_in_value_and_gradient(channels, layout):
    torch.manual_seed(0)
    images = torch.randn(2, channels, 3, 5).to(memory_format=layout)
    mine, plain = images.clone().requires_grad_(), images.clone().requires_grad_()
    shuffled, expected = pixel_shuffle(mine), F.pixel_shuffle(plain, 2)
    assert torch.equal(shuffled, expected)
    direction = torch.randn_like(expected)
    shuffled.backward(direction)
    expected.backward(direction)
    assert torch.equal(mine.grad, plain.grad)


def test_the_plain_operations_of_an_exported_program_give_the_same():
    torch.manual_seed(0)
    images, weight = torch.randn(2, 3, 4, 6), torch.randn(5, 3, 3, 3)
    expected = upsampled_convolution(images, phase_weights(weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert torch.equal(upsampled_convolution(images, phase_weights(weight)), expected)
        shuffled = pixel_shuffle(images[:, :1].expand(2, 4, 4, 6))
    assert torch.equal(shuffled, F.pixel_shuffle(images[:, :1].expand(2, 4, 4, 6), 2))
