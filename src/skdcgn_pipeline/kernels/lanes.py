"""Vectors of float32 for loops that Numba compiles: each lane holds a number of another image.

Numba itself keeps no sums in registers across such loops. Places of vectors in flat arrays are counted in vectors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model
from numba.np.arrayobj import make_array

from skdcgn_pipeline.kernels.rendering import TILE_OUTPUTS

# As wide as the registers are; the sums of a tile fit into them beside their factors.
LANES, TILE_PLACES = (16, 4) if binding.get_host_cpu_features().get("avx512f") else (8, 2)

_intrinsic: Any = intrinsic  # callers do not give the first argument
_index, _word = ir.IntType(64), ir.IntType(32)
_vector = ir.VectorType(ir.FloatType(), LANES)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32 x {LANES}")


_LANES = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _vector)


def _vectors(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Return the address of a flat array as one of vectors."""
    return builder.bitcast(make_array(kind)(context, builder, array).data, _vector.as_pointer())


def _load(builder: Any, address: Any) -> Any:
    return builder.load(address, align=4)


def spread(builder: Any, number: Any, vector: Any = _vector) -> Any:
    """Write code that puts a number into all lanes of a vector."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(_word, 0))
    lanes = ir.VectorType(_word, vector.count)
    return builder.shuffle_vector(first, undefined, ir.Constant(lanes, [0] * vector.count))


def operate(builder: Any, name: str, *vectors: Any) -> Any:
    """Write code that calls an operation of LLVM on vectors of float32."""
    vector = vectors[0].type
    kind = ir.FunctionType(vector, [vector] * len(vectors))
    operation = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{vector.count}f32")
    return builder.call(operation, vectors)


@_intrinsic
def load(context: Any, values: Any, place: Any) -> Any:
    """Return the vector at a place."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = _vectors(context, builder, signature.args[0], arguments[0])
        return _load(builder, builder.gep(start, [arguments[1]]))

    return _LANES(values, types.intp), generate


@_intrinsic
def store(context: Any, values: Any, place: Any, vector: Any) -> Any:
    """Write a vector to a place."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = _vectors(context, builder, signature.args[0], arguments[0])
        builder.store(arguments[2], builder.gep(start, [arguments[1]]), align=4)
        return context.get_dummy_value()

    return types.void(values, types.intp, _LANES), generate


@_intrinsic
def repeated(context: Any, number: Any) -> Any:
    """Return the vector of one number."""
    return _LANES(types.float32), lambda context, builder, signature, arguments: spread(builder, arguments[0])


def _operation(build: Callable[..., Any], number: int) -> Any:
    """Return the function of so many vectors that `build` writes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return build(builder, *arguments)

    typed = _LANES(*[_LANES] * number), generate
    return _intrinsic(
        (lambda context, a: typed, lambda context, a, b: typed, lambda context, a, b, c: typed)[number - 1]
    )


def _overload(symbol: Any, build: Callable[..., Any]) -> None:
    compute = _operation(build, 2)
    overload(symbol)(lambda a, b: (lambda a, b: compute(a, b)) if a == b == _LANES else None)


_overload(operator.add, lambda builder, a, b: builder.fadd(a, b))
_overload(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_overload(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_overload(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
multiply_add = _operation(lambda builder, *abc: operate(builder, "fma", *abc), 3)
larger = _operation(lambda builder, *ab: operate(builder, "maxnum", *ab), 2)
smaller = _operation(lambda builder, *ab: operate(builder, "minnum", *ab), 2)
square_root = _operation(lambda builder, a: operate(builder, "sqrt", a), 1)


@_intrinsic
def multiply_tile(
    context: Any, values: Any, start: Any, step: Any, places: Any, depth: Any, numbers: Any, target: Any
) -> Any:
    """Write TILE_PLACES x TILE_OUTPUTS sums of vectors times numbers to `values` from `target` on.

    Sum (p, o) is that over k < depth of `values[start + places[k] + step * p] * numbers[TILE_OUTPUTS * k + o]`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, start, step, places, depth, numbers, target = arguments
        values = _vectors(context, builder, signature.args[0], values)
        places, numbers = (
            make_array(signature.args[number])(context, builder, arguments[number]).data for number in (3, 5)
        )
        zero = ir.Constant(_vector, [0.0] * LANES)
        sums = [cgutils.alloca_once(builder, _vector) for _ in range(TILE_PLACES * TILE_OUTPUTS)]
        for total in sums:
            builder.store(zero, total)
        with cgutils.for_range(builder, depth) as loop:
            place = builder.sext(builder.load(builder.gep(places, [loop.index])), _index)
            place = builder.add(start, place)
            vectors = []
            for _ in range(TILE_PLACES):
                vectors.append(_load(builder, builder.gep(values, [place])))
                place = builder.add(place, step)
            first = builder.mul(loop.index, ir.Constant(_index, TILE_OUTPUTS))
            for output in range(TILE_OUTPUTS):
                number = builder.gep(numbers, [builder.add(first, ir.Constant(_index, output))])
                factor = spread(builder, builder.load(number))
                for vector, total in zip(vectors, sums[output::TILE_OUTPUTS], strict=True):
                    builder.store(operate(builder, "fma", vector, factor, builder.load(total)), total)
        for number, total in enumerate(sums):
            address = builder.gep(values, [builder.add(target, ir.Constant(_index, number))])
            builder.store(builder.load(total), address, align=4)
        return context.get_dummy_value()

    typed = types.void(values, types.intp, types.intp, places, types.intp, numbers, types.intp)
    return typed, generate
