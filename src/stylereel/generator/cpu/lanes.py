"""Vectors of float32 and a matrix product for Numba kernels, for loops that its compiler vectorises badly.

A value of type `lanes` is one register of WIDTH numbers; the functions on it become one instruction each. Arrays are
C-contiguous, float32 or bfloat16 (as uint16), and addressed flat. Nothing is checked: callers keep inside the arrays.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from stylereel.core import compiled  # noqa: F401 (before any kernel)

WIDE = llvmlite.binding.get_host_cpu_features().get("avx512f", False)
WIDTH = 16 if WIDE else 8  # numbers in a register
ROWS = 14 if WIDE else 6  # of a block of the matrix product, two registers wide: as many as there are registers
PANEL = 2 * WIDTH  # columns of such a block
_operation: Any = intrinsic  # the first parameter of one is not for its callers, which its types do not say
_VECTOR = ir.VectorType(ir.FloatType(), WIDTH)
_WORDS = ir.VectorType(ir.IntType(32), WIDTH)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__("lanes")


lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _call(builder: Any, name: str, *values: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(values))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{WIDTH}f32")
    return builder.call(function, values)


def _splat(builder: Any, value: Any) -> Any:
    kind = ir.VectorType(value.type, WIDTH)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(_WORDS, [0] * WIDTH))


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: Any) -> Any:
    """Of array.flat[index], as a pointer to `kind`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _mask(builder: Any, count: Any) -> Any:
    """Which lanes are among the first `count`."""
    numbers = ir.Constant(_WORDS, list(range(WIDTH)))
    return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(count, ir.IntType(32))))


def _words(builder: Any, values: list[int]) -> Any:
    return ir.Constant(_WORDS, values * WIDTH)


@_operation
def fill(context, value):
    """All lanes the same."""

    def code(context, builder, signature, arguments):
        return _splat(builder, arguments[0])

    return lanes(types.float32), code


@_operation
def spread(context, array, index):
    """All lanes array.flat[index]."""

    def code(context, builder, signature, arguments):
        array, index = arguments
        place = _address(context, builder, signature.args[0], array, index, _VECTOR.element)
        return _splat(builder, builder.load(place))

    return lanes(array, types.intp), code


@_operation
def add(context, a, b):
    """a + b."""

    def code(context, builder, signature, arguments):
        return builder.fadd(*arguments)

    return lanes(lanes, lanes), code


@_operation
def subtract(context, a, b):
    """a - b."""

    def code(context, builder, signature, arguments):
        return builder.fsub(*arguments)

    return lanes(lanes, lanes), code


@_operation
def fma(context, a, b, c):
    """a * b + c."""

    def code(context, builder, signature, arguments):
        return _call(builder, "fma", *arguments)

    return lanes(lanes, lanes, lanes), code


@_operation
def leaky(context, a, slope, clamp):
    """max(a, slope * a), within -clamp and clamp."""

    def code(context, builder, signature, arguments):
        def larger(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        a, slope, clamp = arguments
        value = larger(a, builder.fmul(a, slope))
        value = larger(value, builder.fsub(ir.Constant(_VECTOR, [-0.0] * WIDTH), clamp))
        return builder.select(builder.fcmp_ordered("<", value, clamp), value, clamp)

    return lanes(lanes, lanes, lanes), code


@_operation
def load(context, array, index, count):
    """The first `count` lanes from array.flat[index] on, zero in the others."""

    def code(context, builder, signature, arguments):
        array, index, count = arguments
        kind = ir.VectorType(context.get_data_type(signature.args[0].dtype), WIDTH)
        place = _address(context, builder, signature.args[0], array, index, kind)
        size = 32 if kind == _VECTOR else 16
        name = f"llvm.masked.load.v{WIDTH}{'f' if size == 32 else 'i'}{size}.p0"
        shape = ir.FunctionType(kind, [place.type, ir.IntType(32), ir.VectorType(ir.IntType(1), WIDTH), kind])
        function = cgutils.get_or_insert_function(builder.module, shape, name)
        align = ir.Constant(ir.IntType(32), size // 8)
        value = builder.call(function, [place, align, _mask(builder, count), ir.Constant(kind, None)])
        if size == 32:
            return value
        return builder.bitcast(builder.shl(builder.zext(value, _WORDS), _words(builder, [16])), _VECTOR)

    return lanes(array, types.intp, types.intp), code


@_operation
def store(context, array, index, value, count):
    """The first `count` lanes of value to array.flat[index] and on, rounded to the nearest (even) if bfloat16."""

    def code(context, builder, signature, arguments):
        array, index, value, count = arguments
        kind = ir.VectorType(context.get_data_type(signature.args[0].dtype), WIDTH)
        place = _address(context, builder, signature.args[0], array, index, kind)
        size = 32 if kind == _VECTOR else 16
        if size == 16:
            bits = builder.bitcast(value, _WORDS)
            odd = builder.and_(builder.lshr(bits, _words(builder, [16])), _words(builder, [1]))
            bits = builder.add(bits, builder.add(odd, _words(builder, [0x7FFF])))
            value = builder.trunc(builder.lshr(bits, _words(builder, [16])), kind)
        name = f"llvm.masked.store.v{WIDTH}{'f' if size == 32 else 'i'}{size}.p0"
        mask = _mask(builder, count)
        shape = ir.FunctionType(ir.VoidType(), [kind, place.type, ir.IntType(32), mask.type])
        function = cgutils.get_or_insert_function(builder.module, shape, name)
        builder.call(function, [value, place, ir.Constant(ir.IntType(32), size // 8), mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes, types.intp), code


@_operation(prefer_literal=True)
def _block(context, a, a_start, a_stride, b, b_start, depth, out, out_start, out_stride, rows, registers):
    """out [rows, registers * WIDTH] = a [rows, depth] @ b [depth, registers * WIDTH]; only b is dense."""
    count, across = rows.literal_value, registers.literal_value

    def code(context, builder, signature, arguments):
        a, a_start, a_stride, b, b_start, depth, out, out_start, out_stride, *_ = arguments
        word = a_stride.type
        left = [
            _address(context, builder, signature.args[0], a, builder.add(a_start, builder.mul(a_stride, word(row))),
                     _VECTOR.element)
            for row in range(count)
        ]  # fmt: skip
        right = _address(context, builder, signature.args[3], b, b_start, _VECTOR.element)
        sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(across)] for _ in range(count)]
        for place in (place for row in sums for place in row):
            builder.store(ir.Constant(_VECTOR, [0.0] * WIDTH), place)
        with cgutils.for_range(builder, depth) as loop:
            at = builder.mul(loop.index, word(across * WIDTH))
            columns = []
            for register in range(across):
                address = builder.gep(right, [builder.add(at, word(register * WIDTH))])
                columns.append(builder.load(builder.bitcast(address, _VECTOR.as_pointer()), align=4))
            for row in range(count):
                factor = _splat(builder, builder.load(builder.gep(left[row], [loop.index])))
                for column, place in zip(columns, sums[row], strict=True):
                    builder.store(_call(builder, "fma", factor, column, builder.load(place)), place)
        for row in range(count):
            for register in range(across):
                start = builder.add(out_start, builder.add(builder.mul(out_stride, word(row)), word(register * WIDTH)))
                address = _address(context, builder, signature.args[6], out, start, _VECTOR)
                builder.store(builder.load(sums[row][register]), address, align=4)
        return context.get_dummy_value()

    whole = types.intp
    return types.void(a, whole, whole, b, whole, whole, out, whole, whole, rows, registers), code


@njit(cache=True, nogil=True, error_model="numpy")
def product(a, stride, b, out, tall, depth, wide, plane):
    """out[k, :tall] = a[k, :tall] @ b[k] for each k.

    a [K, plane, stride], whose rows begin with `depth` numbers, and out [K, plane, wide] are flat; b [K, ..] is of
    `pack`. A stride of a multiple of 4 KiB would keep the rows of a block from the nearest cache.
    """
    for k in range(len(b)):
        panels = b[k]
        for column in range(0, wide, PANEL):
            # One panel of b stays in the second cache while all rows of a pass by.
            place = column * depth
            step = min(ROWS, tall)
            for row in range(0, tall, step):
                # The last block repeats some rows; where there are too few, each is a block.
                first = k * plane + min(row, tall - step)
                at, to = first * stride, first * wide + column
                if tall < ROWS:
                    for _single in range(tall):
                        if wide - column >= PANEL:
                            _block(a, at, stride, panels, place, depth, out, to, wide, 1, 2)
                        else:
                            _block(a, at, stride, panels, place, depth, out, to, wide, 1, 1)
                        at, to = at + stride, to + wide
                elif wide - column >= PANEL:
                    _block(a, at, stride, panels, place, depth, out, to, wide, ROWS, 2)
                else:
                    _block(a, at, stride, panels, place, depth, out, to, wide, ROWS, 1)


def pack(b: Any) -> np.ndarray:
    """Matrices b [K, I, O] as `product` reads them: [K, I * O'], panels of columns one after the other.

    O' is O filled up with columns of zeros to a multiple of WIDTH.
    """
    count, depth, columns = b.shape
    wide = -(-columns // WIDTH) * WIDTH
    padded = np.zeros((count, depth, wide), np.float32)
    padded[:, :, :columns] = b
    parts = [padded[:, :, at : at + PANEL].reshape(count, -1) for at in range(0, wide, PANEL)]
    return np.concatenate(parts, axis=1)
