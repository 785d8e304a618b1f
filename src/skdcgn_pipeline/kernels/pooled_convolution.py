"""Standardise, convolve, rectify and pool images in bfloat16 on a CPU, at the cost of what pooling keeps.

The first layers of a small classifier are the largest part of its training step: torch writes all outputs of
the convolution to memory, reads them to pool, and fills the gradient of each with zeros but for the one in
five that pooling kept, for a dense gradient of the filters. Here the outputs are pooled while they are in the
cache, and the gradient of the filters sums over the kept ones alone.

Only called where `kernels.enabled()`; torch's own layers are the other way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

POOL_SIZE, POOL_STRIDE = 3, 2
# The convolution's outputs for so many images stay in the cache until they are pooled.
IMAGES_PER_PASS = 32
# Values of a filter's line, width x channels, that are summed at a time.
LANES = 16


def pooled_size(size: int, kernel_size: int) -> int:
    """Return height or width after a convolution without padding and the pooling; 0 where nothing is left."""
    return max(0, (size - kernel_size + 1 - POOL_SIZE) // POOL_STRIDE + 1)


def standardise(images: Tensor, epsilon: float, kernel_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bring each channel to mean 0 and variance 1 over the batch, as a batch norm without scale and shift does.

    Args:
        images: [N, 3, H, W], float32.
        epsilon: Added to the variances.
        kernel_size: k, of the convolution that follows; at most 5.

    Returns:
        What a line of a filter sees at each place: bfloat16 [N, lines, columns, 16], of which the first 3 k are the
        standardised values of k neighbours and the rest 0, without the places that no pooled output depends on; the
        means [3]; and the variances [3], divided by the number of values.
    """
    from skdcgn_pipeline.kernels import loops

    number, channels, height, width = images.shape
    assert kernel_size * channels <= LANES
    assert min(pooled_size(height, kernel_size), pooled_size(width, kernel_size)) > 0
    values = images.contiguous()
    sums = torch.zeros(2, channels, dtype=torch.float64)
    loops.sum_channels(_flat(values), sums.numpy(), number, height * width)
    mean, square = (sums / (number * height * width)).unbind()
    variance = (square - mean.square()).clamp_min_(0)
    scale = torch.rsqrt(variance + epsilon)
    scales, shifts = ((*numbers.float().numpy(),) for numbers in (scale, -mean * scale))
    lines, columns = _reach(height, kernel_size), _reach(width, kernel_size) - kernel_size + 1
    seen = torch.empty(number, lines, columns, LANES, dtype=torch.bfloat16)
    loops.scale_channels(_flat(values), scales, shifts, _bits(seen), height, width, kernel_size, (*seen.shape,))
    return seen, mean.float(), variance.float()


def _reach(size: int, kernel_size: int) -> int:
    """Return how many lines or columns the pooled outputs depend on."""
    return (pooled_size(size, kernel_size) - 1) * POOL_STRIDE + POOL_SIZE + kernel_size - 1


def convolve_and_pool(seen: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `relu(max_pool2d(conv2d(images, weight, bias), 3, 2))` in bfloat16, with gradients of weight and bias.

    Of several largest values of a window the first one takes the gradient. Gradients are summed in float32.

    Args:
        seen: What `standardise` returns of the images, which get no gradient.
        weight: [K, C, k, k], floating point.
        bias: [K].

    Returns:
        [N, K, h, w], bfloat16, channels last.
    """
    return _ConvolveAndPool.apply(seen, weight, bias)


class _ConvolveAndPool(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, seen: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from skdcgn_pipeline.kernels import loops

        number, lines, columns, _ = seen.shape
        filters, channels, kernel_size, _ = weight.shape
        height, width = pooled_size(lines, kernel_size), pooled_size(columns, 1)
        pooled = torch.empty(number, height, width, filters, dtype=torch.bfloat16)
        places = torch.empty(number, height, width, filters, dtype=torch.uint8)
        # A line of a filter is one column of as many channels.
        as_columns = torch.zeros(filters, kernel_size, 1, LANES, dtype=torch.bfloat16)
        as_columns[:, :, 0, : kernel_size * channels] = weight.permute(0, 2, 3, 1).flatten(2)
        as_columns, low_bias = as_columns.permute(0, 3, 1, 2), bias.bfloat16()
        kept = _bits(pooled), _flat(places), height, width
        for first in range(0, number, IMAGES_PER_PASS):
            outputs = F.conv2d(seen[first : first + IMAGES_PER_PASS].permute(0, 3, 1, 2), as_columns, low_bias)
            outputs = outputs.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
            loops.pool(_bits(outputs), (*outputs.shape,), *kept, first)
        context.save_for_backward(seen, pooled, places)
        context.weight_shape = weight.shape
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        from skdcgn_pipeline.kernels import loops

        seen, pooled, places = context.saved_tensors
        filters, channels, kernel_size, _ = context.weight_shape
        gradient = gradients[0].bfloat16().permute(0, 2, 3, 1).contiguous()
        weight, bias = torch.zeros(filters, kernel_size, 2, LANES // 2), torch.zeros(filters)
        kept = _bits(gradient), _bits(pooled), _flat(places), (*pooled.shape,)
        loops.gradient_sums(kernel_size)(*kept, _bits(seen), (*seen.shape,), _flat(weight), bias.numpy())
        lines = weight.transpose(2, 3).flatten(2)[:, :, : kernel_size * channels]
        return None, lines.unflatten(2, (kernel_size, channels)).permute(0, 3, 1, 2), bias


def _flat(values: Tensor) -> np.ndarray:
    """Return contiguous values as one line, in the same memory."""
    return values.view(-1).numpy()


def _bits(values: Tensor) -> np.ndarray:
    """Return the bits of contiguous bfloat16 values as one line of int16, in the same memory."""
    return _flat(values.view(torch.int16))
