"""The loops of `rendering.Plan`, which Numba compiles for the processor at their first call (seconds)."""

from __future__ import annotations

from typing import Any

import numpy as np

from skdcgn_pipeline.kernels.compiling import compiled
from skdcgn_pipeline.kernels.lanes import (
    LANES,
    TILE_PLACES,
    larger,
    load,
    multiply_add,
    multiply_tile,
    repeated,
    smaller,
    square_root,
    store,
)
from skdcgn_pipeline.kernels.rendering import MULTIPLY, NORMALISE, SIGMOID, TANH, TILE_OUTPUTS

_single = np.float32
_compiled = compiled(error_model="numpy")


@_compiled
def _tanh(values: Any) -> Any:
    """Return the hyperbolic tangent to 1e-6: a quotient of polynomials, as Eigen computes it."""
    end = repeated(_single(7.9))
    values = smaller(larger(values, repeated(_single(-7.9))), end)
    square = values * values
    above = repeated(_single(-2.76076847742355e-16))
    above = multiply_add(above, square, repeated(_single(2.00018790482477e-13)))
    above = multiply_add(above, square, repeated(_single(-8.60467152213735e-11)))
    above = multiply_add(above, square, repeated(_single(5.12229709037114e-08)))
    above = multiply_add(above, square, repeated(_single(1.48572235717979e-05)))
    above = multiply_add(above, square, repeated(_single(6.37261928875436e-04)))
    above = multiply_add(above, square, repeated(_single(4.89352455891786e-03)))
    below = repeated(_single(1.19825839466702e-06))
    below = multiply_add(below, square, repeated(_single(1.18534705686654e-04)))
    below = multiply_add(below, square, repeated(_single(2.26843463243900e-03)))
    below = multiply_add(below, square, repeated(_single(4.89352518554385e-03)))
    return smaller(larger(values * above / below, repeated(_single(-1))), repeated(_single(1)))


@_compiled
def _rectified(values: Any) -> Any:
    return larger(values, values * repeated(_single(0.2)))


@_compiled
def _multiply(step: Any, numbers: Any, places: Any, values: Any, sums: Any) -> None:
    groups, outputs, depth, weights, seen, targets = step[1], step[2], step[3], step[4], step[5], step[6]
    height, width, source, row, column = step[7], step[8], step[9], step[10], step[11]
    to_row, to_column, bias, scale, shift, leaky = step[12], step[13], step[14], step[15], step[16], step[17]
    blocks = -(-outputs // TILE_OUTPUTS)
    for line in range(height):
        for first in range(0, width, TILE_PLACES):
            start, target = source + line * row + first * column, line * to_row + first * to_column
            for group in range(groups):
                seen_places = places[seen + group * depth :]
                for block in range(blocks):
                    factors = numbers[weights + (group * blocks + block) * depth * TILE_OUTPUTS :]
                    multiply_tile(values, start, column, seen_places, depth, factors, sums)
                    for output in range(block * TILE_OUTPUTS, min(outputs, (block + 1) * TILE_OUTPUTS)):
                        place = places[targets + group * outputs + output] + target
                        factor, summand = repeated(_single(1)), repeated(_single(0))
                        if scale >= 0:
                            factor, summand = load(values, scale + output), load(values, shift + output)
                        if bias >= 0:
                            summand = repeated(numbers[bias + output])
                        for number in range(min(TILE_PLACES, width - first)):
                            total = load(values, sums + number * TILE_OUTPUTS + output - block * TILE_OUTPUTS)
                            value = multiply_add(total, factor, summand)
                            store(values, place + number * to_column, _rectified(value) if leaky else value)


@_compiled
def _normalise(step: Any, values: Any) -> None:
    channels, size, first, channel, row = step[1], step[2], step[3], step[4], step[5]
    to_first, to_channel, to_row = step[6], step[7], step[8]
    per_image, scale, shift, leaky = step[9], step[10], step[11], step[12]
    share = repeated(_single(1) / _single(size * size))
    for number in range(channels):
        start, target = first + number * channel, to_first + number * to_channel
        factor, summand = repeated(_single(1)), repeated(_single(0))
        if scale >= 0:
            factor, summand = load(values, scale + number), load(values, shift + number)
        if per_image:
            mean, variance = repeated(_single(0)), repeated(_single(1e-5))
            for line in range(size):
                for column in range(size):
                    mean = multiply_add(load(values, start + line * row + column), share, mean)
            for line in range(size):
                for column in range(size):
                    value = load(values, start + line * row + column) - mean
                    variance = multiply_add(value * value, share, variance)
            factor = factor / square_root(variance)
            summand = summand - mean * factor
        for line in range(size):
            for column in range(size):
                value = multiply_add(load(values, start + line * row + column), factor, summand)
                store(values, target + line * to_row + column, _rectified(value) if leaky else value)


@_compiled
def _activate(step: Any, numbers: Any, values: Any) -> None:
    kind, first, number, options = step[0], step[1], step[2], step[3]
    gain, shift, half = repeated(numbers[options]), repeated(numbers[options + 1]), repeated(_single(0.5))
    for place in range(first, first + number):
        value = multiply_add(load(values, place), gain, shift)
        if kind == TANH:
            value = _tanh(value)
        elif kind == SIGMOID:
            value = multiply_add(_tanh(value * half), half, half)
        else:
            value = smaller(larger(value, repeated(_single(0))), repeated(_single(1)))
        store(values, place, value)


@_compiled
def render(columns: Any, images: Any, program: Any, values: Any, sums: Any, image: Any, first: Any, last: Any) -> None:
    """Write images `first` to `last` of their columns [N, D]; `sums` and `image` are places in `values`."""
    steps, numbers, places = program
    num_columns, size = columns.shape[1], len(images) // max(1, len(columns))
    for block in range(first, last, LANES):
        number = min(LANES, last - block)
        for lane in range(LANES):  # of the last image again, where there are no more
            row = block + min(lane, number - 1)
            for column in range(num_columns):
                values[column * LANES + lane] = columns[row, column]
        for step in steps:
            if step[0] == MULTIPLY:
                _multiply(step, numbers, places, values, sums)
            elif step[0] == NORMALISE:
                _normalise(step, values)
            else:
                _activate(step, numbers, values)
        # A few pixels at a time, which stay in the cache for all lanes.
        for pixel in range(0, size, LANES):
            for lane in range(number):
                for index in range(pixel, min(pixel + LANES, size)):
                    images[(block + lane) * size + index] = values[(image + index) * LANES + lane]
