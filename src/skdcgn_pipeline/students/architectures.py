"""Architectures of students: small conditional generators of one mechanism each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline import kernels
from skdcgn_pipeline.kernels.rendering import SIGMOID, TANH, Plan
from skdcgn_pipeline.networks.frozen_cache import FrozenCache
from skdcgn_pipeline.networks.interface import GeneratorSize, look_up
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.runtime.threads import computing_on
from skdcgn_pipeline.students.layers import (
    ConditionalNorm,
    UpsampledConvolution,
    colours,
    phase_weights,
    pixel_shuffle,
    sub_pixels,
)
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS, channels_of


class StudentGenerator(nn.Module):
    """A generator of one mechanism's images from noise and class; subclasses say how.

    Args:
        channels: 1 for masks (values in [0, 1]), 3 for images (values in [-1, 1]).
        size: The teacher's; which image sizes can be made depends on the architecture.
        width: Channels, one number or a list, see the architecture.
        embedding_dim: Length of the learnt class embedding.
        bottleneck: Length of a learnt code of noise and class that the stem sees instead of these; None leaves it out.
    """

    embedding: nn.Embedding
    norms: nn.ModuleList  # those of the class, in the order in which they are applied
    stem: nn.Linear
    start: int  # height and width of what the stem gives
    first: int  # its channels
    is_mask: bool

    def __init__(
        self, channels: int, size: GeneratorSize, width: Any, embedding_dim: int, bottleneck: int | None = None
    ) -> None:
        super().__init__()
        self.is_mask = channels == 1
        self.embedding = nn.Embedding(size.num_classes, embedding_dim)
        joined = size.noise_dim + embedding_dim
        self.bottleneck = nn.Linear(joined, bottleneck, bias=False) if bottleneck else nn.Identity()
        self.num_inputs = bottleneck or joined  # of the stem
        self._plan = FrozenCache()

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images [N, channels, S, S] for noise [N, noise_dim] and classes [N], or weights of them."""
        raise NotImplementedError

    def stem_of_both(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return the stem's output of noise and class embedding, joined."""
        return self.stem(self.bottleneck(torch.cat([noise, look_up(self.embedding, labels)], 1)))

    def columns(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return what the steps of `plan` begin with: the stem's output, then scale and shift of each norm, [N, D]."""
        conditions = [part for norm in self.norms for part in norm.of_evaluation(labels)]  # type: ignore[operator]
        return torch.cat([self.stem_of_both(noise, labels), *conditions], 1)

    def plan(self, num_columns: int) -> Plan:
        """Return the steps from columns to images, the same function as `forward`."""
        raise NotImplementedError

    @property
    def runtime(self) -> str:
        """What `fused` renders by: `kernels`, whose loops serve architectures with a plan on a CPU, or `torch`."""
        has_plan = type(self).plan is not StudentGenerator.plan
        is_on_cpu = next(self.parameters()).device.type == "cpu"
        return "kernels" if has_plan and is_on_cpu and kernels.enabled() else "torch"

    def fused(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return the images of `forward`, to rounding, of a frozen student in eval mode.

        What else is asked for than float32 without gradients, such as bfloat16 by autocast, is left to `forward`.
        """
        is_plain = noise.dtype == torch.float32 and not (noise.requires_grad or torch.is_autocast_enabled("cpu"))
        if not is_plain or self.runtime != "kernels" or torch.compiler.is_compiling():
            return self(noise, labels)
        with computing_on(1):  # torch's threads would go on waiting where those of the loops are to compute
            columns = self.columns(noise, labels)
        tensors = (*self.parameters(), *self.buffers())
        return self._plan.get(self, tensors, lambda: self.plan(columns.shape[1]))(columns)


class CompactGenerator(StudentGenerator):
    """A plain network whose convolutions all run at an eighth to a half of the image size, a multiple of 8.

    Linear -> 1/8 size -> nearest x2, Conv3x3 -> 1/4 size -> nearest x2, Conv3x3 -> 1/2 size ->
    Conv3x3 -> pixel shuffle x2. Class-conditional batch-norm and LeakyReLU in between. Small widths
    make plain convolutions faster than depthwise ones on a CPU.

    `width` is the channels at 1/8, 1/4 and 1/2 of the image size. The first hold most parameters, in the
    linear layer; the last cost most arithmetic.
    """

    def __init__(self, channels: int, size: GeneratorSize, width: Sequence[int], *inputs: Any, **named: Any) -> None:
        check_multiple(size.image_size, 8)
        super().__init__(channels, size, width, *inputs, **named)
        self.first, self.start = width[0], size.image_size // 8
        self.stem = nn.Linear(self.num_inputs, self.first * self.start**2, bias=False)
        self.norms = nn.ModuleList(ConditionalNorm(c, size.num_classes) for c in width)
        self.convolutions = nn.ModuleList(UpsampledConvolution(c_in, c_out) for c_in, c_out in pairwise(width))
        self.output = nn.Conv2d(width[-1], 4 * channels, 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images, see `StudentGenerator`."""
        hidden = self.stem_of_both(noise, labels).view(-1, self.first, self.start, self.start)  # [N, C, S/8, S/8]
        hidden = F.leaky_relu_(self.norms[0](hidden, labels), 0.2)
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):  # type: ignore[call-overload]
            hidden = F.leaky_relu_(norm(convolution(hidden), labels), 0.2)  # [N, C, S/4, S/4], [N, C, S/2, S/2]
        return sub_pixels(self.output, hidden, self.is_mask)

    def plan(self, num_columns: int) -> Plan:
        """Return the steps of `forward`, see `StudentGenerator`."""
        plan = Plan(num_columns)
        hidden = plan.columns(self.first, self.start)
        hidden = plan.normalise(hidden, per_image=False, conditional=True, leaky=True, border=1)
        for convolution in self.convolutions:
            hidden = plan.upsampled_convolution(hidden, phase_weights(convolution.weight))  # type: ignore[arg-type]
        images = plan.shuffled_convolution(hidden, self.output)
        plan.activate(images, SIGMOID if self.is_mask else TANH)
        return plan


class BasisGenerator(StudentGenerator):
    """A shallow network whose linear layer speaks in learnt spatial patterns; its image size is a multiple of 4.

    Linear -> coefficients of shared patterns at 1/4 size -> instance norm -> nearest x2, Conv3x3 -> 1/2
    size -> batch-norm, LeakyReLU, instance norm -> Conv3x3 -> pixel shuffle x2 -> for masks, another
    instance norm. Scales and shifts of the norms belong to the class.

    The mask of the MNIST CGN is little more than a linear map of noise and class to many channels at 1/4
    size, which holds most of its parameters, and instance norms, which decide how far the strokes reach.
    Channels that share their spatial patterns need a fraction of the parameters, and with the instance
    norms masks come out sharper than from a `CompactGenerator` of the same size.

    `width` is the channels at 1/4 size, the number of patterns, and the channels at 1/2 size.
    """

    def __init__(self, channels: int, size: GeneratorSize, width: Sequence[int], *inputs: Any, **named: Any) -> None:
        check_multiple(size.image_size, 4)
        super().__init__(channels, size, width, *inputs, **named)
        self.first, num_patterns, last = width
        self.start = size.image_size // 4
        self.stem = nn.Linear(self.num_inputs, self.first * num_patterns, bias=False)
        self.patterns = nn.Parameter(torch.randn(num_patterns, self.start**2) / self.start)
        self.norms = nn.ModuleList(
            [ConditionalNorm(self.first, size.num_classes, per_image=True), ConditionalNorm(last, size.num_classes)]
        )
        self.convolution = UpsampledConvolution(self.first, last)
        self.output = nn.Conv2d(last, 4 * channels, 3, padding=1)
        if self.is_mask:
            # A steep sigmoid around the mean stands for the teacher's clamp to [0, 1].
            self.gain, self.shift = nn.Parameter(torch.tensor(4.0)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images, see `StudentGenerator`."""
        coefficients = self.stem_of_both(noise, labels).view(-1, self.first, self.patterns.shape[0])
        hidden = (coefficients @ self.patterns).view(-1, self.first, self.start, self.start)  # [N, C, S/4, S/4]
        hidden = self.convolution(self.norms[0](hidden, labels))  # [N, C, S/2, S/2]
        hidden = F.leaky_relu_(self.norms[1](hidden, labels), 0.2)
        hidden = F.instance_norm(hidden)
        if not self.is_mask:
            return colours(self.output, hidden)
        logits = F.instance_norm(pixel_shuffle(self.output(hidden).float()))
        return (logits * self.gain + self.shift).sigmoid_()

    def plan(self, num_columns: int) -> Plan:
        """Return the steps of `forward`, see `StudentGenerator`."""
        plan = Plan(num_columns)
        hidden = plan.patterns(self.first, self.patterns)
        hidden = plan.normalise(hidden, per_image=True, conditional=True)
        hidden = plan.upsampled_convolution(hidden, phase_weights(self.convolution.weight))
        hidden = plan.normalise(hidden, per_image=True)
        images = plan.shuffled_convolution(hidden, self.output)
        if self.is_mask:
            plan.activate(plan.normalise(images, per_image=True), SIGMOID, self.gain, self.shift)
        else:
            plan.activate(images, TANH)
        return plan


class _TinyBlock(nn.Module):
    """TinyGAN's residual block: doubles the resolution with depthwise and pointwise convolutions."""

    def __init__(self, channels_in: int, channels_out: int, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(channels_in, num_classes, embedding_dim)
        self.conv1 = _separable(channels_in, channels_out)
        self.norm2 = ConditionalNorm(channels_out, num_classes, embedding_dim)
        self.conv2 = _separable(channels_out, channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, images: Tensor, embedding: Tensor) -> Tensor:
        """Return images of twice the height and width."""

        def double(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)

        hidden = self.conv1(double(F.relu(self.norm1(images, embedding))))
        hidden = self.conv2(F.relu(self.norm2(hidden, embedding)))
        return hidden + self.shortcut(double(images))


def _separable(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in), nn.Conv2d(channels_in, channels_out, 1)
    )


class TinyGenerator(StudentGenerator):
    """TinyGAN's generator (arXiv 2009.13829, section 3.1), with a learnt class embedding.

    Linear -> residual blocks that double the size, conditioned on the class embedding -> output. The image size is a
    power of two from 8 on. `width` is c of the paper: widths start at 16 * width, stay for the first block and halve
    with every further one.
    """

    def __init__(self, channels: int, size: GeneratorSize, width: int, embedding_dim: int) -> None:
        image_size = size.image_size
        num_blocks = min(5, int(math.log2(image_size // 4)))
        if image_size != 2 ** int(math.log2(image_size)) or num_blocks < 1:
            raise SettingError("image_size", "a power of two from 8 on", image_size, "Resize the teacher's images.")
        super().__init__(channels, size, width, embedding_dim)
        widths = [16 * width, *(16 * width // 2**block for block in range(num_blocks))]
        self.start, self.first = image_size // 2**num_blocks, widths[0]
        self.stem = nn.Linear(size.noise_dim, self.first * self.start**2)
        self.blocks = nn.ModuleList(
            _TinyBlock(c_in, c_out, size.num_classes, embedding_dim) for c_in, c_out in pairwise(widths)
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.output = nn.Conv2d(widths[-1], channels, 3, padding=1)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "affine" not in name:
                nn.init.xavier_uniform_(parameter)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images, see `StudentGenerator`."""
        embedding = look_up(self.embedding, labels)
        hidden = self.stem(noise).view(-1, self.first, self.start, self.start)
        for block in self.blocks:
            hidden = block(hidden, embedding)
        images = self.output(F.relu(self.norm(hidden))).float()
        return images.sigmoid() if self.is_mask else images.tanh()


ARCHITECTURES: dict[str, type[StudentGenerator]] = {
    "compact": CompactGenerator,
    "basis": BasisGenerator,
    "tinygan": TinyGenerator,
}


def check_multiple(image_size: int, factor: int) -> None:
    """Refuse an image size that an architecture cannot make."""
    if image_size % factor:
        raise SettingError("image_size", f"a multiple of {factor}", image_size, "Use the 'tinygan' architecture.")


def make_student(mechanism: str, architecture: Mapping[str, Any], size: GeneratorSize) -> StudentGenerator:
    """Return an untrained student of one mechanism.

    Args:
        mechanism: shape, texture or background, or `COMPOSITE` for a student of the whole image.
        architecture: `architecture` (a name in `ARCHITECTURES`), `width` and `embedding_dim`.
        size: Of the teacher.

    Raises:
        SettingError: If the mechanism or the architecture is unknown, or cannot make images of the size.
    """
    check_choice("mechanism", mechanism, (*MECHANISMS, COMPOSITE))
    options = dict(architecture)
    name = check_choice("student.architecture", options.pop("architecture"), ARCHITECTURES)
    return ARCHITECTURES[name](channels_of(mechanism), size, **options)
