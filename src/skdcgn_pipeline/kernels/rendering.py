"""Small generators on a CPU, from the columns of their linear layers to images, without leaving the cache.

Torch runs a student's layers one after the other over the whole batch, each a pass over memory and a call. A `Plan`
runs all of them for as many images as a register has lanes before it goes on: everything in between stays in the
cache, norms and activations are done where sums are written, and each lane holds a number of another image.

Only called where `kernels.enabled()`; the network itself is the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

TILE_OUTPUTS = 4  # sums of so many outputs are made together
MULTIPLY, NORMALISE, SIGMOID, TANH, CLAMP = range(5)
STEP_LENGTH = 18
NONE = -1


class Map(NamedTuple):
    """Where the channels of square maps are.

    Attributes:
        start: The first place; places are counted in vectors.
        channels: How many.
        size: Height and width.
        border: Zeros on each side, 0 or 1.
    """

    start: int
    channels: int
    size: int
    border: int

    @property
    def row(self) -> int:
        """The places of a line."""
        return self.size + 2 * self.border

    @property
    def channel(self) -> int:
        """The places of a channel."""
        return self.row**2

    @property
    def corner(self) -> int:
        """The place of the first pixel."""
        return self.start + self.border * (self.row + 1)


class Plan:
    """The steps from columns [N, D], which a network computes of noise and class, to its images.

    The methods add a step each, in the order of the network's layers; maps come from the columns, in their order.
    The last step makes the images.

    Args:
        num_columns: D.
    """

    def __init__(self, num_columns: int) -> None:
        self._steps: list[list[int]] = []
        self._numbers: list[Tensor] = []
        self._places: list[int] = []
        self._end, self._used = num_columns, 0
        self._image = Map(0, 0, 0, 0)
        self._reach = 64  # places beyond the maps: sums of a tile, and what a tile reads past a line
        self._free: list[np.ndarray] = []

    def columns(self, channels: int, size: int = 1) -> Map:
        """Return the next columns as maps."""
        self._used += channels * size**2
        return Map(self._used - channels * size**2, channels, size, 0)

    def _map(self, channels: int, size: int, border: int = 1) -> Map:
        result = Map(self._end, channels, size, border)
        self._end += channels * result.channel
        return result

    def _add(self, *step: int) -> None:
        self._steps.append([*step, *[0] * (STEP_LENGTH - len(step))])

    def _keep(self, numbers: Tensor) -> int:
        start = sum(map(len, self._numbers))
        self._numbers.append(numbers.detach().float().reshape(-1))
        return start

    def _keep_places(self, places: Sequence[int]) -> int:
        self._places += places
        return len(self._places) - len(places)

    def _multiply(
        self, weights: Tensor, seen: Sequence[int], targets: Sequence[int], source: Sequence[int], *how: int
    ) -> None:
        """Add a step of sums of products.

        Args:
            weights: [groups, outputs, depth].
            seen: The places [groups, depth] that go into a sum, from the source on.
            targets: The places [groups, outputs] of the first sums.
            source: Lines and columns of sums, first place of the source, from line to line, from column to column.
            how: From line to line and from column to column of the target; number of the biases; place of scales and
                of shifts; whether a LeakyReLU follows.
        """
        groups, outputs, depth = weights.shape
        missing = -outputs % TILE_OUTPUTS
        packed = torch.cat([weights, weights.new_zeros(groups, missing, depth)], 1)
        packed = packed.unflatten(1, (-1, TILE_OUTPUTS)).transpose(2, 3)
        what = self._keep(packed), self._keep_places(seen), self._keep_places(targets)
        self._reach = max(self._reach, TILE_OUTPUTS * (TILE_OUTPUTS + source[4]))
        self._add(MULTIPLY, groups, outputs, depth, *what, *source, *how)

    def patterns(self, channels: int, patterns: Tensor) -> Map:
        """Return maps of the next columns, the coefficients [channels, P] of patterns [P, size**2]."""
        number, area = patterns.shape
        coefficients, maps = self.columns(channels * number), self._map(channels, round(area**0.5))
        pixels = [maps.corner + line * maps.row + column for line in range(maps.size) for column in range(maps.size)]
        source = 1, channels, coefficients.start, 0, number
        self._multiply(patterns.T[None], range(number), pixels, source, 0, maps.channel, NONE, NONE, NONE, 0)
        return maps

    def normalise(
        self, maps: Map, *, per_image: bool, conditional: bool = False, leaky: bool = False, border: int | None = None
    ) -> Map:
        """Return normalised maps: those that are given, or, with a border, others.

        Args:
            maps: The maps.
            per_image: Bring each channel of an image to mean 0 and variance 1, as instance norms do.
            conditional: Scale and shift them by the next columns.
            leaky: A LeakyReLU of slope 0.2 follows.
            border: Of other maps.
        """
        target = maps if border is None else self._map(maps.channels, maps.size, border)
        scale = self.columns(2 * maps.channels).start if conditional else NONE
        shift = scale + maps.channels
        options = int(per_image), scale, shift, int(leaky)
        places = (place for m in (maps, target) for place in (m.corner, m.channel, m.row))
        self._add(NORMALISE, maps.channels, maps.size, *places, *options)
        return target

    def upsampled_convolution(self, maps: Map, phases: Tensor) -> Map:
        """Return `students.layers.upsampled_convolution`, scaled and shifted by the next columns, and a LeakyReLU."""
        channels_out, channels_in = phases.shape[0] // 4, phases.shape[1]
        enlarged = self._map(channels_out, 2 * maps.size)
        weights = phases.unflatten(0, (4, -1)).permute(0, 1, 3, 4, 2).reshape(4, channels_out, -1)
        seen, targets = [], []
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            window = [(row + y) * maps.row + column + x for y in (0, 1) for x in (0, 1)]
            seen += [place + channel * maps.channel for place in window for channel in range(channels_in)]
            corner = enlarged.corner + row * enlarged.row + column
            targets += [corner + channel * enlarged.channel for channel in range(channels_out)]
        source = maps.size, maps.size, maps.start, maps.row, 1
        scale = self.columns(2 * channels_out).start
        self._multiply(weights, seen, targets, source, 2 * enlarged.row, 2, NONE, scale, scale + channels_out, 1)
        return enlarged

    def shuffled_convolution(self, maps: Map, convolution: nn.Conv2d) -> Map:
        """Return the images of a convolution to [4 C, H, W] with 3x3 weights and biases, and a pixel shuffle."""
        weight, bias = convolution.weight, convolution.bias
        assert bias is not None
        size, row, channel = maps.size, maps.row, maps.channel
        images = self._map(len(weight) // 4, 2 * size, border=0)
        window = [y * row + x + place * channel for y in range(3) for x in range(3) for place in range(maps.channels)]
        targets = [
            images.start + number * images.channel + y * images.row + x
            for number in range(images.channels)
            for y in (0, 1)
            for x in (0, 1)
        ]
        weights, source = weight.permute(0, 2, 3, 1).flatten(1)[None], (size, size, maps.start, row, 1)
        self._multiply(weights, window, targets, source, 2 * images.row, 2, self._keep(bias), NONE, NONE, 0)
        return images

    def activate(self, images: Map, kind: int, gain: Tensor | float = 1.0, shift: Tensor | float = 0.0) -> None:
        """End with a SIGMOID, TANH or CLAMP to [0, 1] of `gain * images + shift`."""
        options = torch.stack([torch.as_tensor(gain), torch.as_tensor(shift)])
        self._image = images
        self._add(kind, images.start, images.channels * images.channel, self._keep(options))

    def __call__(self, columns: Tensor) -> Tensor:
        """Return images [N, C, S, S] for float32 columns [N, D] on the CPU, on as many threads as torch's."""
        from skdcgn_pipeline.kernels import rendering_loops as loops

        number = len(columns)
        images = torch.empty(number, self._image.channels, self._image.size, self._image.size)
        arrays = columns.contiguous().numpy(), images.view(-1).numpy(), self._program

        def run(first: int, last: int) -> None:
            try:
                values = self._free.pop()
            except IndexError:  # aligned as torch does; borders stay zero
                values = torch.zeros(loops.LANES * (self._end + self._reach)).numpy()
            loops.render(*arrays, values, self._end, self._image.start, first, last)
            self._free.append(values)

        blocks = -(-number // loops.LANES)
        parts = max(1, min(torch.get_num_threads(), blocks))
        ends = [min(number, blocks * part // parts * loops.LANES) for part in range(parts + 1)]
        if parts == 1:
            run(0, number)
        else:
            with ThreadPoolExecutor(parts) as pool:  # for this call alone: threads do not survive a fork
                list(pool.map(run, ends[:-1], ends[1:]))
        return images

    @cached_property
    def _program(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps, numbers and places as the loops take them."""
        steps, places = np.array(self._steps, np.int64), np.array(self._places, np.int32)
        return steps, torch.cat(self._numbers).numpy(), places
