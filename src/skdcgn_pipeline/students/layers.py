"""Layers of small generators, written for little arithmetic and few passes over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.networks.frozen_cache import FrozenCache
from skdcgn_pipeline.networks.interface import look_up, pick

# Which taps of a 3x3 kernel meet on the same small pixel, by the parity of the large pixel's row (or
# column) and the place, 0 or 1, of the small pixel in the 2x2 window that the large pixel sees.
_TAPS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


class _Interleave(torch.autograd.Function):
    """Put the four phases of `upsampled_convolution` in their places; linear, so backward is its transpose."""

    @staticmethod
    def forward(context: Any, phases: Tensor) -> Tensor:
        """Return [N, 2H, 2W, D] from contiguous phases [N, H + 1, W + 1, 4 D]."""
        num_images, height, width, channels = phases.shape
        context.shape = phases.shape
        context.view = _interleaved_view(phases.shape)
        return phases.as_strided(*context.view).reshape(num_images, 2 * height - 2, 2 * width - 2, channels // 4)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of the phases."""
        gradient = gradients[0].new_zeros(context.shape)
        size, stride = context.view
        gradient.as_strided(size, stride).copy_(gradients[0].reshape(size))
        return gradient


def _interleaved_view(shape: torch.Size) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return size and stride of the view [N, H, 2, W, 2, D]; no two of its places are the same."""
    num_images, height, width, channels = shape
    depth = channels // 4
    row = width * channels
    # A step to the second row of a pixel is one small row and two phases further on.
    stride = (height * row, row, row + 2 * depth, channels, channels + depth, 1)
    return (num_images, height - 1, 2, width - 1, 2, depth), stride


def phase_weights(weight: Tensor) -> Tensor:
    """Return the 2x2 kernels [4 D, C, 2, 2] of the four phases of a 3x3 kernel [D, C, 3, 3], channels last."""
    channels_out, channels_in = weight.shape[:2]
    taps = torch.tensor(_TAPS, dtype=weight.dtype, device=weight.device)
    phases = torch.einsum("pat,qbu,dctu->pqdcab", taps, taps, weight).reshape(4 * channels_out, channels_in, 2, 2)
    return phases.contiguous(memory_format=torch.channels_last)


def upsampled_convolution(images: Tensor, phases: Tensor) -> Tensor:
    """Enlarge images by nearest x2 and convolve them by 3x3 with padding 1, at the small size.

    Of the nine taps of a large pixel several meet the same small pixel; summing them first leaves a 2x2
    kernel for each of the four phases of the large grid, so 4/9 of the multiplications.

    Args:
        images: [N, C, H, W].
        phases: `phase_weights(weight)` for a weight [D, C, 3, 3].

    Returns:
        [N, D, 2H, 2W], the same as `conv2d(interpolate(images, scale_factor=2), weight, padding=1)`,
        laid out channels last.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    hidden = F.conv2d(images, phases, padding=1).permute(0, 2, 3, 1).contiguous()
    # What is exported or compiled is made of plain operations alone.
    interleave = _interleave_plainly if torch.compiler.is_compiling() else _Interleave.apply
    return interleave(hidden).permute(0, 3, 1, 2)


def _interleave_plainly(phases: Tensor) -> Tensor:
    """Return the same as `_Interleave`."""
    _, height, width, channels = phases.shape
    depth = channels // 4
    parts = phases.split(depth, 3)  # by phase: row, column

    def row(first: int) -> Tensor:
        pair = [parts[2 * first + q][:, first : height - 1 + first, q : width - 1 + q] for q in (0, 1)]
        return torch.stack(pair, 3)

    return torch.stack([row(0), row(1)], 2).reshape(-1, 2 * height - 2, 2 * width - 2, depth)


def pixel_shuffle(images: Tensor) -> Tensor:
    """Return `torch.nn.functional.pixel_shuffle(images, 2)`, moving two neighbours at a time.

    Args:
        images: [N, 4 C, H, W], float32.
    """
    if torch.compiler.is_compiling():
        return F.pixel_shuffle(images, 2)
    num_images, channels, height, width = images.shape
    pairs = images.permute(0, 2, 3, 1).contiguous().view(num_images, height, width, channels // 4, 2, 2)
    # Two pixels side by side make one complex number, which is copied as a whole.
    moved = torch.view_as_complex(pairs).permute(0, 3, 1, 4, 2).contiguous()
    return torch.view_as_real(moved).view(num_images, channels // 4, 2 * height, 2 * width)


class UpsampledConvolution(nn.Conv2d):
    """Nearest x2, then Conv3x3 with padding 1 and without bias, see `upsampled_convolution`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)
        self._phases = FrozenCache()

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, channels_out, 2H, 2W] for images [N, channels_in, H, W]."""
        phases = self._phases.get(self, (self.weight,), lambda: phase_weights(self.weight))
        return upsampled_convolution(images, phases)


class ConditionalNorm(nn.Module):
    """Batch-norm whose scale (initially 1) and shift (initially 0) belong to the class.

    Args:
        channels: Channels of the images.
        num_classes: Number of classes.
        embedding_dim: With it, scale and shift are linear in a class embedding, as in TinyGAN;
            without, each class has its own.
        per_image: Instance norm instead of batch-norm.
    """

    def __init__(
        self, channels: int, num_classes: int, embedding_dim: int | None = None, per_image: bool = False
    ) -> None:
        super().__init__()
        self._table = FrozenCache()
        self.norm = nn.InstanceNorm2d(channels) if per_image else nn.BatchNorm2d(channels, affine=False)
        self.affine: Any
        if embedding_dim is None:
            self.affine = nn.Embedding(num_classes, 2 * channels)
        else:
            self.affine = nn.Linear(embedding_dim, 2 * channels)
            nn.init.zeros_(self.affine.bias)
        nn.init.zeros_(self.affine.weight)

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """Normalise [N, C, H, W].

        `condition` is classes [N], weights [N, num_classes] of classes, or embeddings [N, embedding_dim].
        """
        norm = self.norm
        if self.training or isinstance(norm, nn.InstanceNorm2d):
            scale, shift = self._affine_of(condition)[:, :, None, None].to(images.dtype).chunk(2, 1)
            return torch.addcmul(shift, norm(images), scale + 1)
        scale, shift = (part[:, :, None, None].to(images.dtype) for part in self.of_evaluation(condition))
        return torch.addcmul(shift, images, scale)

    def of_evaluation(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift [N, C] that follow instance norm, or that are all of batch-norm in evaluation."""
        norm = self.norm
        if isinstance(norm, nn.InstanceNorm2d):
            scale, shift = self._affine_of(condition).chunk(2, 1)
            return scale + 1, shift
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        if not isinstance(self.affine, nn.Embedding):
            return self._fused(self.affine(condition), mean, variance)
        table = self.affine.weight
        scale, shift = self._table.get(self, (table, mean, variance), lambda: self._fused(table, mean, variance))
        return pick(scale, condition), pick(shift, condition)

    def _affine_of(self, condition: Tensor) -> Tensor:
        return look_up(self.affine, condition) if isinstance(self.affine, nn.Embedding) else self.affine(condition)

    def _fused(self, affine: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift [N, C] of both affine maps in one, which is one pass over the images."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        scale, shift = affine.float().chunk(2, 1)
        scale = (scale + 1) * torch.rsqrt(variance + self.norm.eps)
        return scale, shift - mean * scale


def sub_pixels(convolution: nn.Conv2d, hidden: Tensor, is_mask: bool) -> Tensor:
    """Convolve, shuffle pixels, and return a mask's sigmoid or an image's tanh."""
    return pixel_shuffle(convolution(hidden).float()).sigmoid_() if is_mask else colours(convolution, hidden)


def colours(convolution: nn.Conv2d, hidden: Tensor) -> Tensor:
    """Convolve, shuffle pixels and return their tanh, as 2 sigmoid(2x) - 1.

    Torch's sigmoid is several times faster on a CPU, and doubling the weights spares a pass over the images.
    """
    assert convolution.bias is not None
    doubled = F.conv2d(hidden, 2 * convolution.weight, 2 * convolution.bias, padding=1)
    return torch.rsub(pixel_shuffle(doubled.float()).sigmoid_(), -1, alpha=-2)
