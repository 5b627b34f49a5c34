"""Four floats in one vector register, for compiled loops.

Numba turns long loops into vector instructions, but not the short one over a handful of channels at the heart of the
lattice; these functions write them directly. They work inside compiled functions only, on C-contiguous float32 arrays
(rows, 4), and check no bounds. Four lanes are what every processor has (SSE, NEON).
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
Lanes: TypeAlias = "LanesType"
Codegen: TypeAlias = tuple[Any, Callable[..., Any]]

VECTOR = ir.VectorType(ir.FloatType(), WIDTH)
FLOAT_BYTES = 4  # what rows are aligned to at least


class LanesType(types.Type):
    """The type of four floats, as numba sees it."""


LANES = cast(Any, LanesType)(name="Lanes")


def _model(manager: Any, kind: Any) -> Any:
    return cast(Any, models).PrimitiveModel(manager, kind, VECTOR)


cast(Any, register_model)(LanesType)(_model)


def _row(context: Any, builder: Any, kind: Any, array: Any, row: Any) -> Any:
    """Point to row `row` of an array (rows, 4)."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [builder.mul(row, row.type(WIDTH))]), VECTOR.as_pointer())


def _zeros(_: Any) -> Codegen:
    return LANES(), lambda *_: ir.Constant(VECTOR, [0.0] * WIDTH)


def _load(_: Any, rows: Any, row: Any) -> Codegen:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_row(context, builder, signature.args[0], *arguments), align=FLOAT_BYTES)

    return LANES(rows, types.int64), codegen


def _store(_: Any, rows: Any, row: Any, lanes: Any) -> Codegen:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _row(context, builder, signature.args[0], *arguments[:2]), align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(rows, types.int64, LANES), codegen


def _add(_: Any, left: Any, right: Any) -> Codegen:
    return LANES(LANES, LANES), lambda _context, builder, _signature, arguments: builder.fadd(*arguments)


def _scale(_: Any, factor: Any, lanes: Any) -> Codegen:
    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        factor, lanes = arguments
        single = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), factor, ir.IntType(32)(0))
        spread = builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))
        return builder.fmul(spread, lanes)

    return LANES(types.float32, LANES), codegen


zeros = cast(Callable[[], Lanes], intrinsic(_zeros))
load = cast(Callable[[Rows, int], Lanes], intrinsic(_load))
store = cast(Callable[[Rows, int, Lanes], None], intrinsic(_store))
add = cast(Callable[[Lanes, Lanes], Lanes], intrinsic(_add))
scale = cast(Callable[[np.float32, Lanes], Lanes], intrinsic(_scale))
