"""Arrays that are known while a jaxpr is imported, and the equations that are computed then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qir.frontends.jaxpr.equations import Equation, Slot
from qir.frontends.jaxpr.shapes import is_known, to_shape
from qir.frontends.raising.weight_names import derived_name
from qir.types import Array, Dim, DType, Shape, TensorType, known


@dataclass(frozen=True, eq=False)
class Known:
    """An operand whose numbers are known; it becomes a constant only where an op reads it.

    Attributes:
        array: The numbers, of the shape's rank. An axis of size 1 may stand for one of any size,
            a named one too.
        shape: The shape that the array stretches to.
        name: The weight that the numbers come from by moves alone, or None.
    """

    array: Array
    shape: Shape
    name: str | None = None

    @staticmethod
    def of(array: Any, shape: Shape | None = None, name: str | None = None) -> Known:
        """Wraps an array that broadcasts to a shape; its own shape when None."""
        numbers = np.asarray(array)
        wanted = tuple(numbers.shape) if shape is None else shape
        return Known(
            numbers.reshape((1,) * (len(wanted) - numbers.ndim) + numbers.shape), wanted, name
        )

    @property
    def type(self) -> TensorType:
        """The type of the constant."""
        return TensorType(self.shape, DType.of(self.array.dtype))

    @property
    def full(self) -> Array:
        """The numbers at their whole shape; raises QirError where a size is named."""
        return np.broadcast_to(self.array, self.type.known_shape)

    @property
    def trimmed(self) -> Array:
        """The fewest axes that broadcast to the shape."""
        kept = next(
            (axis for axis, size in enumerate(self.array.shape) if size != 1), self.array.ndim
        )
        return self.array.reshape(self.array.shape[kept:])

    def reshape(self, shape: Shape) -> Known | None:
        """Returns the numbers under another shape, or None where their order can't be told."""
        if self.array.size == 1:
            return replace(self, array=self.array.reshape((1,) * len(shape)), shape=shape)
        if not (is_known(shape) and is_known(self.shape)):
            return None
        return Known(
            self.full.reshape([known(size, "reshape") for size in shape]), shape, self.name
        )

    def transpose(self, permutation: Sequence[int]) -> Known:
        """Returns the numbers with their axes in another order."""
        shape = tuple(self.shape[axis] for axis in permutation)
        return Known(self.array.transpose(permutation), shape, self.name)

    def astype(self, dtype: Any) -> Known:
        """Returns the numbers in another type."""
        return replace(self, array=self.array.astype(dtype))


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
        found = _bind(equation, *arrays)
    results = found if equation.primitive.multiple_results else [found]
    return [result if _is_opaque(result) else Known.of(result) for result in results]


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
