"""The loops that Numba compiles for the processor at their first call (seconds); no compiler has to be there."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from skdcgn_pipeline.kernels.compiling import compiled
from skdcgn_pipeline.kernels.lanes import operate, spread
from skdcgn_pipeline.kernels.pooled_convolution import LANES, POOL_SIZE, POOL_STRIDE

# No exception for a division by zero: checks would keep loops from being vectorised.
_compiled = compiled(error_model="numpy")
_intrinsic: Any = intrinsic  # callers do not give the first argument
_uint = np.uint64  # indices without a sign need no check for negative ones


# As by default, a product and a sum are not joined, which would round once where decoding rounds twice.
@_compiled
def take(images: Any, where: Any, shape: Any, scale: Any, shift: Any, taken: Any) -> None:
    """Write the images of `where` [B, 3], row and offset, one after the other."""
    channels, height, width = shape
    twice = np.empty(2 * width, np.float32)
    for place in range(len(where)):
        row, lines, columns = where[place]
        for channel in range(channels):
            for line in range(height):
                shifted = line + lines if line + lines < height else line + lines - height
                source = _uint(((row * channels + channel) * height + shifted) * width)
                target = _uint(((place * channels + channel) * height + line) * width)
                # Each line twice, side by side, and of these the window at its column.
                for column in range(_uint(width)):
                    value = np.float32(images[source + column]) * scale + shift
                    twice[column] = value
                    twice[column + _uint(width)] = value
                for column in range(_uint(width)):
                    taken[target + column] = twice[_uint(columns) + column]


@_compiled
def _widened(bits: Any) -> Any:
    """Return the float32 of the bits of a bfloat16, which are its upper half."""
    return np.uint32(np.uint32(np.uint16(bits)) << np.uint32(16)).view(np.float32)


@_compiled
def _narrowed(value: Any) -> Any:
    """Return the bits of the bfloat16 that is nearest to a float32, of two the even one."""
    bits = np.float32(value).view(np.uint32)
    return np.int16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


# The order of the sums is the compiler's, so that it can take many values at a time.
@compiled(fastmath={"reassoc", "contract", "nsz"})
def sum_channels(images: Any, sums: Any, number: Any, area: Any) -> None:
    """Add the values of each channel of [N, C, area] and their squares to sums [2, C]."""
    channels = sums.shape[1]
    for image in range(number):
        for channel in range(channels):
            start = _uint((image * channels + channel) * area)
            total = square = np.float32(0)
            for index in range(_uint(area)):
                value = images[start + index]
                total += value
                square += value * value
            sums[0, channel] += total
            sums[1, channel] += square


@_compiled
def scale_channels(
    images: Any, scale: Any, shift: Any, seen: Any, height: Any, width: Any, kernel_size: Any, shape: Any
) -> None:
    """Write images [N, 3, H, W] times `scale` plus `shift` as a filter's lines see them, [N, lines, columns, 16]."""
    number, lines, columns, lanes = shape
    area, row = _uint(height * width), np.zeros(3 * width, np.int16)
    # Channel by channel it would take three times as long.
    (scale_0, scale_1, scale_2), (shift_0, shift_1, shift_2) = scale, shift
    used = _uint(3 * kernel_size)
    for image in range(_uint(number)):
        for line in range(_uint(lines)):
            source = _uint(3) * image * area + line * _uint(width)
            for column in range(_uint(width)):
                first = _uint(3) * column
                row[first] = _narrowed(images[source + column] * scale_0 + shift_0)
                row[first + _uint(1)] = _narrowed(images[source + area + column] * scale_1 + shift_1)
                row[first + _uint(2)] = _narrowed(images[source + area + area + column] * scale_2 + shift_2)
            for column in range(_uint(columns)):
                target = ((image * _uint(lines) + line) * _uint(columns) + column) * _uint(lanes)
                for lane in range(_uint(lanes)):
                    seen[target + lane] = row[_uint(3) * column + lane] if lane < used else np.int16(0)


@_compiled
def pool(outputs: Any, shape: Any, pooled: Any, places: Any, lines: Any, columns: Any, first: Any) -> None:
    """Write the largest of each window of [N, H, W, K], or 0, and which of the nine it is, from image `first` on.

    The bits of positive bfloat16 are in the order of their values, and those of negative ones are negative (a NaN
    with a sign, too: such a training shows in its deeper layers).
    """
    number, height, width, filters = shape
    for image in range(_uint(number)):
        for line in range(_uint(lines)):
            for column in range(_uint(columns)):
                target = (((image + _uint(first)) * _uint(lines) + line) * _uint(columns) + column) * _uint(filters)
                source = (image * _uint(height) + _uint(POOL_STRIDE) * line) * _uint(width)
                source = (source + _uint(POOL_STRIDE) * column) * _uint(filters)
                for channel in range(_uint(filters)):
                    largest, place = np.int16(0), np.int16(0)
                    for window_line in range(POOL_SIZE):
                        for window_column in range(POOL_SIZE):
                            offset = _uint(window_line * width + window_column) * _uint(filters)
                            value = outputs[source + offset + channel]
                            is_larger = value > largest
                            largest = value if is_larger else largest
                            place = np.int16(window_line * POOL_SIZE + window_column) if is_larger else place
                    pooled[target + channel] = largest
                    places[target + channel] = np.uint8(place)


@_intrinsic
def _address(context: Any, values: Any, offset: Any) -> Any:
    """Return the address of a value of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        return builder.gep(array.data, [arguments[1]])

    return types.CPointer(values.dtype)(values, types.intp), generate


def _window_sums(num_lines: int) -> Any:
    """Return a function that sums windows of an image, each times a factor, for filters of so many lines.

    Its arguments are addresses of the image (bits of bfloat16), of where each window starts in it (int32) and of
    the factors (float32), both of which go on `stride` further; the number of windows; the values between two
    lines; and the address of the sums (float32), to which it adds: of each line the values at even lanes, then
    those at odd ones. It is written in the compiler's vectors because all sums have to stay in registers.
    """
    half = LANES // 2
    index = ir.IntType(64)
    words, singles = ir.VectorType(ir.IntType(32), half), ir.VectorType(ir.FloatType(), half)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        image, starts, factors, number, stride, pitch, sums = arguments
        zeros = ir.Constant(singles, [0.0] * half)
        totals = [cgutils.alloca_once_value(builder, zeros) for _ in range(2 * num_lines)]
        with cgutils.for_range(builder, number) as loop:
            place = builder.mul(loop.index, stride)
            start = builder.zext(builder.load(builder.gep(starts, [place])), index)
            factor = spread(builder, builder.load(builder.gep(factors, [place])), singles)
            for line in range(num_lines):
                address = builder.gep(image, [builder.add(start, builder.mul(pitch, ir.Constant(index, line)))])
                # Each word holds two values, and a bfloat16 is the upper half of a float32.
                pairs = builder.load(builder.bitcast(address, words.as_pointer()), align=2)
                even = builder.shl(pairs, ir.Constant(words, [16] * half))
                odd = builder.and_(pairs, ir.Constant(words, [0xFFFF0000] * half))
                for values, total in zip((even, odd), totals[2 * line : 2 * line + 2], strict=True):
                    added = operate(builder, "fma", factor, builder.bitcast(values, singles), builder.load(total))
                    builder.store(added, total)
        for number_of_sum, total in enumerate(totals):
            address = builder.gep(sums, [ir.Constant(index, number_of_sum * half)])
            address = builder.bitcast(address, singles.as_pointer())
            builder.store(builder.fadd(builder.load(address, align=4), builder.load(total)), address, align=4)
        return context.get_dummy_value()

    @_intrinsic
    def add_windows(
        typing: Any, image: Any, starts: Any, factors: Any, number: Any, stride: Any, pitch: Any, sums: Any
    ) -> Any:
        addresses = [types.CPointer(kind) for kind in (types.int16, types.int32, types.float32)]
        return types.void(*addresses, types.intp, types.intp, types.intp, types.CPointer(types.float32)), generate

    return add_windows


@cache
def gradient_sums(kernel_size: int) -> Any:
    """Return the loop that sums the gradients of filters of this size, and of their biases."""
    add_windows = _window_sums(kernel_size)

    @_compiled
    def sum_gradients(
        gradient: Any, pooled: Any, places: Any, pooled_shape: Any, seen: Any, seen_shape: Any, weight: Any, bias: Any
    ) -> None:
        """Add gradients to weight [K, lines of a filter, 2, LANES / 2] and bias [K]."""
        number, height, width, filters = pooled_shape
        _, lines, columns, lanes = seen_shape
        size, pitch, num_windows = lines * columns * lanes, np.int32(columns * lanes), height * width
        factors = np.empty(num_windows * filters, np.float32)
        starts = np.empty(num_windows * filters, np.int32)
        for image in range(number):
            first = _uint(image * num_windows * filters)
            for window in range(num_windows):
                corner = np.int32(POOL_STRIDE * (window // width * pitch + window % width * lanes))
                own = _uint(window * filters)
                for channel in range(_uint(filters)):
                    place = np.int32(places[first + own + channel])
                    line = np.int32(place >= POOL_SIZE) + np.int32(place >= 2 * POOL_SIZE)
                    column = place - np.int32(POOL_SIZE) * line
                    starts[own + channel] = corner + line * pitch + column * np.int32(lanes)
                    # Where nothing was positive, ReLU passes nothing back.
                    is_kept = pooled[first + own + channel] != 0
                    factor = _widened(gradient[first + own + channel]) if is_kept else np.float32(0)
                    factors[own + channel] = factor
                    bias[channel] += factor
            for channel in range(filters):
                sums = _address(weight, channel * kernel_size * lanes)
                windows = _address(seen, image * size), _address(starts, channel), _address(factors, channel)
                add_windows(*windows, num_windows, filters, pitch, sums)

    return sum_gradients
