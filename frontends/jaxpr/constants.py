"""Constants of a jaxpr, and the equations that are computed while it is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qir.frontends.jaxpr.program import Equation, RegionEquation, Slot
from qir.frontends.jaxpr.shapes import to_shape
from qir.frontends.shared.known import Known, is_known
from qir.ir.weight_names import derived_name
from qir.types import Array, Dim, Shape


def _select(which: Array, *cases: Array) -> Array:
    return np.choose(which.astype(np.intp), cases)


def _power(x: Array, *, y: int) -> Array:
    return np.asarray(x ** np.asarray(y, x.dtype))


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "exp": np.exp,
    "floor": np.floor,
    "integer_pow": _power,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "select_n": _select,
}
"""Computed by numpy on the arrays as they are; the rest costs a compilation by XLA each."""


def _is_float(array: Array) -> bool:
    return array.dtype.kind not in "biu"


def constant(slot: Slot, name: str | None) -> Any:
    """Returns a constant as a Known, or as it is where it holds no numbers but a random key."""
    if _is_opaque(slot.aval):
        return slot.constant
    # Arrays of jax never change; numpy's may, after the import.
    copy = None if isinstance(slot.constant, jax.Array) else True
    numbers = np.array(slot.constant, slot.aval.dtype, copy=copy)
    return Known.of(numbers, to_shape(slot.aval.shape), name)


def fold(equation: Equation, operands: Sequence[Any]) -> list[Any] | None:
    """Computes an equation whose operands are known.

    Args:
        equation: The equation.
        operands: A Known for each operand, or what jax itself computes with (random keys).

    Returns:
        Its results likewise, or None where named sizes leave it open.
    """
    if equation.primitive.name == "dim_as_value":  # known when the graph runs, not before
        return None
    shapes = [to_shape(slot.aval.shape) for slot in equation.outputs]
    if all(isinstance(operand, Known) for operand in operands):
        moved = _move(equation, operands, shapes[0])
        if moved is not None:
            return [moved]
    open_shapes = [operand.shape for operand in operands if isinstance(operand, Known)] + shapes
    if not all(map(is_known, open_shapes)):
        return None
    arrays = [operand.full if isinstance(operand, Known) else operand for operand in operands]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        if isinstance(equation, RegionEquation):
            results = _run(equation, arrays)
        else:
            found = _bind(equation, *arrays)
            results = found if equation.primitive.multiple_results else [found]
    return [result if _is_opaque(result) else Known.of(result) for result in results]


def _run(equation: RegionEquation, arrays: Sequence[Any]) -> list[Any]:
    """Computes a loop or branch; what nothing needs of it may be any number."""
    given = dict(zip(equation.inputs, arrays, strict=True))
    operands = [given[slot] if slot in given else _anything(slot.aval) for slot in equation.whole]
    found = dict(zip(equation.results, _bind(equation, *operands), strict=True))
    return [found[slot] for slot in equation.outputs]


def _anything(aval: Any) -> Any:
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), aval.shape) if aval.shape else jax.random.key(0)
    return np.zeros(aval.shape, aval.dtype)


def _bind(equation: Equation, *arrays: Any) -> Any:
    compute: Callable[..., Any] = equation.primitive.bind
    return compute(*arrays, **equation.params)


def _is_opaque(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jax.dtypes.extended))


def _move(equation: Equation, operands: Sequence[Known], shape: Shape) -> Known | None:
    params = equation.params
    dtype = equation.outputs[0].aval.dtype
    match equation.primitive.name:
        case "reshape" if params["dimensions"] is None:
            return operands[0].reshape(shape)
        case "squeeze":
            return operands[0].reshape(shape)
        case "transpose":
            return operands[0].transpose(params["permutation"])
        case "broadcast_in_dim":
            axes = params["broadcast_dimensions"]
            spread = [1] * len(shape)
            for axis, size in zip(axes, operands[0].array.shape, strict=True):
                spread[axis] = size
            name = (
                operands[0].name
                if operands[0].shape == tuple(shape[axis] for axis in axes)
                else None
            )
            return Known(operands[0].array.reshape(spread), shape, name)
        case "iota":
            along = [-1 if axis == params["dimension"] else 1 for axis in range(len(shape))]
            size = shape[params["dimension"]]
            if isinstance(size, Dim):
                return None
            return Known(np.arange(size).astype(dtype).reshape(along), shape)
        case "reduce_window_sum":
            return _window_sums(equation, operands[0], shape)
        case "convert_element_type" if not (_is_float(operands[0].array) and dtype.kind in "iu"):
            return replace(operands[0], array=operands[0].array.astype(dtype))
        case name if name in _ELEMENTWISE or (name == "div" and _is_float(operands[0].array)):
            keywords: Mapping[str, Any] = params if name == "integer_pow" else {}
            with np.errstate(all="ignore"):
                numbers = _ELEMENTWISE.get(name, np.divide)(
                    *(operand.array for operand in operands), **keywords
                )
            role = "offset" if name in ("add", "sub", "neg") else "factor"
            weight = derived_name((operand.name for operand in operands), role)
            return Known.of(np.asarray(numbers).astype(dtype), shape, weight)
        case _:
            return None


def _window_sums(equation: Equation, operand: Known, shape: Shape) -> Known | None:
    """Sums the windows of an array whose named axes stretch: the counts of an average pool."""
    params = equation.params
    open_axes = [axis for axis, size in enumerate(operand.shape) if isinstance(size, Dim)]
    untouched = all(
        params["window_dimensions"][axis] == params["window_strides"][axis] == 1
        and tuple(params["padding"][axis]) == (0, 0)
        for axis in open_axes
    )
    if not open_axes or not untouched:
        return None
    sizes = [1 if isinstance(size, Dim) else size for size in operand.shape]
    sums = _bind(equation, np.broadcast_to(operand.array, sizes))
    return Known.of(sums, shape)
