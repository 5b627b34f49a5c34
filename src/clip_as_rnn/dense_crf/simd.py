"""SIMD: arithmetic on four or eight floats at once, for compiled loops.

Numba turns long loops into vector instructions, but not the short one over a handful of channels at the heart of the
lattice; these functions write them directly, as LLVM's vector types, and the CRF takes 1.3 to 1.5 times as long without
them. They work inside compiled functions only, on C-contiguous float32 arrays (rows, 4) or (rows, 2, 4), and check no
bounds. Four floats are what a register of every processor holds (SSE, NEON); eight are two registers, or one (AVX).
"""

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

WIDTH = 4

Rows: TypeAlias = npt.NDArray[np.float32]
FloatVector: TypeAlias = "FloatVectorType"
Codegen: TypeAlias = tuple[Any, Callable[..., Any]]

FLOAT_BYTES = 4  # what rows are aligned to at least


class FloatVectorType(types.Type):
    """The type of `width` floats that numba keeps in a register."""

    def __init__(self, width: int) -> None:
        cast(Any, super()).__init__(name=f"FloatVector{width}")
        self.vector = ir.VectorType(ir.FloatType(), width)


def _model(manager: Any, kind: Any) -> Any:
    return cast(Any, models).PrimitiveModel(manager, kind, kind.vector)


cast(Any, register_model)(FloatVectorType)(_model)


def _vector_type(rows: Any) -> FloatVectorType:
    """Choose the type of a row: an array's number of axes is what numba knows of its shape."""
    return FloatVectorType(WIDTH * (rows.ndim - 1))


def _row(context: Any, builder: Any, kind: Any, array: Any, row: Any) -> Any:
    """Point to row `row` of an array."""
    data = context.make_array(kind)(context, builder, array).data
    vector = _vector_type(kind).vector
    return builder.bitcast(builder.gep(data, [builder.mul(row, row.type(vector.count))]), vector.as_pointer())


def _load(_: Any, rows: Any, row: Any) -> Codegen:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_row(context, builder, signature.args[0], *arguments), align=FLOAT_BYTES)

    return _vector_type(rows)(rows, types.int64), codegen


def _store(_: Any, rows: Any, row: Any, vector: Any) -> Codegen:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _row(context, builder, signature.args[0], *arguments[:2]), align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(rows, types.int64, vector), codegen


def _add(_: Any, left: Any, right: Any) -> Codegen:
    return left(left, right), lambda _context, builder, _signature, arguments: builder.fadd(*arguments)


def _scale(_: Any, factor: Any, vector: Any) -> Codegen:
    def codegen(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, floats = arguments
        kind = signature.return_type.vector
        single = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
        first = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
        return builder.fmul(builder.shuffle_vector(single, single, first), floats)

    return vector(types.float32, vector), codegen


load = cast(Callable[[Rows, int], FloatVector], intrinsic(_load))
store = cast(Callable[[Rows, int, FloatVector], None], intrinsic(_store))
add = cast(Callable[[FloatVector, FloatVector], FloatVector], intrinsic(_add))
scale = cast(Callable[[np.float32, FloatVector], FloatVector], intrinsic(_scale))
