"""U^2-Net, which turns the ImageNet CGN's premask into a mask, with the published names of its tensors.

Architecture: U^2-Net (Qin et al. 2020, arXiv 2005.09007), a U-Net whose stages are U-Nets themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Stage(NamedTuple):
    """Size of one residual U-block.

    Attributes:
        depth: Levels of the block's own U, at least 2.
        middle: Channels inside the block.
        out: Channels of its output.
        dilated: Dilate the convolutions twofold per level instead of pooling (RSU4F in the paper).
    """

    depth: int
    middle: int
    out: int
    dilated: bool = False


# 44.0 M parameters: six stages down, five up.
U2NET_ENCODER = (
    Stage(7, 32, 64),
    Stage(6, 32, 128),
    Stage(5, 64, 256),
    Stage(4, 128, 512),
    Stage(4, 256, 512, dilated=True),
    Stage(4, 256, 512, dilated=True),
)
U2NET_DECODER = (
    Stage(4, 256, 512, dilated=True),
    Stage(4, 128, 256),
    Stage(5, 64, 128),
    Stage(6, 32, 64),
    Stage(7, 16, 64),
)


def _halve(images: Tensor) -> Tensor:
    """Halve height and width, rounded up."""
    return F.max_pool2d(images, 2, stride=2, ceil_mode=True)


def _resize_like(images: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(images, size=other.shape[2:], mode="bilinear", align_corners=True)


class ConvolutionUnit(nn.Module):
    """Conv3x3 of one dilation that keeps the size, batch-norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(channels_out)

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, channels_out, H, W] for images [N, channels_in, H, W]."""
        return F.relu(self.bn_s1(self.conv_s1(images)))


class ResidualUBlock(nn.Module):
    """RSU: a U of convolution units around which a projection of the input leads (figure 2 of the paper).

    Args:
        channels_in: Channels of the input.
        stage: Depth, widths and whether the block dilates instead of pooling.
    """

    def __init__(self, channels_in: int, stage: Stage) -> None:
        super().__init__()
        self.depth, middle, out, self.dilated = stage
        depth = self.depth
        self.rebnconvin = ConvolutionUnit(channels_in, out)
        for level in range(1, depth + 1):
            # A block that pools widens its view at the bottom by one dilated convolution alone.
            dilation = 2 ** (level - 1) if self.dilated else 1 + (level == depth)
            self.add_module(f"rebnconv{level}", ConvolutionUnit(out if level == 1 else middle, middle, dilation))
        for level in range(depth - 1, 0, -1):
            dilation = 2 ** (level - 1) if self.dilated else 1
            unit = ConvolutionUnit(2 * middle, out if level == 1 else middle, dilation)
            self.add_module(f"rebnconv{level}d", unit)

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, out, H, W] for images [N, channels_in, H, W]."""
        projection = hidden = self.rebnconvin(images)
        levels: list[Tensor] = []
        for level in range(1, self.depth):
            pooled = _halve(hidden) if level > 1 and not self.dilated else hidden
            hidden = self.get_submodule(f"rebnconv{level}")(pooled)
            levels.append(hidden)
        hidden = self.get_submodule(f"rebnconv{self.depth}")(hidden)
        for level in range(self.depth - 1, 0, -1):
            skipped = levels.pop()
            if not self.dilated:
                hidden = _resize_like(hidden, skipped)
            hidden = self.get_submodule(f"rebnconv{level}d")(torch.cat([hidden, skipped], 1))
        return hidden + projection


class U2Net(nn.Module):
    """Salient object detection: a U of residual U-blocks, whose stages' maps are fused into one.

    Args:
        encoder: Stages from the full size down; each runs at half the size of the one before.
        decoder: Stages from the second smallest size up, one fewer than those of the encoder.
    """

    def __init__(self, encoder: Sequence[Stage] = U2NET_ENCODER, decoder: Sequence[Stage] = U2NET_DECODER) -> None:
        super().__init__()
        self.num_stages = len(encoder)
        assert len(decoder) == len(encoder) - 1
        widths = [3, *(stage.out for stage in encoder)]
        for number, (stage, width) in enumerate(zip(encoder, widths, strict=False), 1):
            self.add_module(f"stage{number}", ResidualUBlock(width, stage))
        above = [encoder[-1].out, *(stage.out for stage in decoder)]
        for place, stage in enumerate(decoder):
            number = self.num_stages - 1 - place
            self.add_module(f"stage{number}d", ResidualUBlock(above[place] + encoder[number - 1].out, stage))
        for number, width in enumerate(reversed(above), 1):
            self.add_module(f"side{number}", nn.Conv2d(width, 1, 3, padding=1))
        self.outconv = nn.Conv2d(self.num_stages, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the fused map [N, 1, H, W] in [0, 1] for images [N, 3, H, W] in [-1, 1]."""
        levels: list[Tensor] = []
        hidden = images
        for number in range(1, self.num_stages + 1):
            hidden = self.get_submodule(f"stage{number}")(_halve(hidden) if levels else hidden)
            levels.append(hidden)
        outputs = [levels.pop()]
        for number in range(self.num_stages - 1, 0, -1):
            skipped = levels.pop()
            joined = torch.cat([_resize_like(outputs[-1], skipped), skipped], 1)
            outputs.append(self.get_submodule(f"stage{number}d")(joined))
        sides = [self.get_submodule(f"side{number}")(hidden) for number, hidden in enumerate(reversed(outputs), 1)]
        # In float: a sigmoid rounded to bfloat16 knows no value between 0.996 and 1.
        return self.outconv(torch.cat([_resize_like(side, images) for side in sides], 1)).float().sigmoid()
