"""Primitives that move numbers without choosing among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qir.errors import QirError, UnsupportedError
from qir.frontends.jaxpr.primitives import primitive
from qir.frontends.jaxpr.shapes import to_shape
from qir.frontends.shared.emitter import Emitter, Operand
from qir.frontends.shared.known import Known
from qir.ir import Value
from qir.ops import Broadcast, Concat, Iota, Pad, Reverse, Slice, Split, Tile
from qir.types import Dim, DType, Size, known


@primitive("reshape")
def reshape(
    b: Emitter, x: Operand, *, new_sizes: Sequence[Any], dimensions: Any = None, **_: Any
) -> Operand:
    """Row-major reshape."""
    if dimensions is not None:
        x = b.transpose(x, dimensions)
    return b.reshape(x, to_shape(new_sizes))


@primitive("squeeze")
def squeeze(b: Emitter, x: Operand, *, dimensions: Sequence[int], **_: Any) -> Operand:
    """Axes of size 1 removed."""
    return b.reshape(
        x, tuple(size for axis, size in enumerate(x.type.shape) if axis not in dimensions)
    )


@primitive("transpose")
def transpose(b: Emitter, x: Operand, *, permutation: Sequence[int], **_: Any) -> Operand:
    """Axes in another order."""
    return b.transpose(x, permutation)


@primitive("broadcast_in_dim")
def broadcast_in_dim(
    b: Emitter, x: Operand, *, shape: Sequence[Any], broadcast_dimensions: Sequence[int], **_: Any
) -> Operand:
    """Axes of size 1 by reshape; a broadcast only where an axis grows."""
    wanted = to_shape(shape)
    spread: list[Size] = [1] * len(wanted)
    for axis, size in zip(broadcast_dimensions, x.type.shape, strict=True):
        spread[axis] = size
    placed = b.reshape(x, tuple(spread))
    return placed if tuple(spread) == wanted else b.emit(Broadcast(wanted), placed)


@primitive("concatenate")
def concatenate(b: Emitter, *xs: Operand, dimension: int, **_: Any) -> Operand:
    """Operands one after the other."""
    return xs[0] if len(xs) == 1 else b.emit(Concat(dimension), *xs)


@primitive("stack")
def stack(b: Emitter, *xs: Operand, axis: int, **_: Any) -> Operand:
    """Operands one after the other along a new axis."""
    shape = xs[0].type.shape
    placed = [b.reshape(x, (*shape[:axis], 1, *shape[axis:])) for x in xs]
    return concatenate(b, *placed, dimension=axis)


@primitive("tile")
def tile(b: Emitter, x: Operand, *, reps: Sequence[Any], **_: Any) -> Operand:
    """The operand repeated as a whole; as often as a named size says, by a broadcast."""
    counts = to_shape(reps)
    if not any(isinstance(count, Dim) for count in counts):
        return b.emit(Tile(tuple(known(count, "tile") for count in counts)), x)
    spread: list[Size] = []
    wide: list[Size] = []
    for size, count in zip(x.type.shape, counts, strict=True):
        if count != 1 and size != 1:
            spread.append(1)
            wide.append(count)
        spread.append(size)
        wide.append(count if size == 1 else size)
    repeated = b.emit(Broadcast(tuple(wide)), b.reshape(x, tuple(spread)))
    return b.reshape(
        repeated,
        tuple(size * count for size, count in zip(x.type.shape, counts, strict=True)),
    )


@primitive("rev")
def rev(b: Emitter, x: Operand, *, dimensions: Sequence[int], **_: Any) -> Operand:
    """Axes turned round."""
    return b.emit(Reverse(tuple(sorted(dimensions))), x)


@primitive("slice")
def slice_(
    b: Emitter,
    x: Operand,
    *,
    start_indices: Sequence[Any],
    limit_indices: Sequence[Any],
    strides: Sequence[int] | None = None,
    **_: Any,
) -> Operand:
    """Places at regular steps; axes that stay whole are left out."""
    return cut(
        b, x, to_shape(start_indices), to_shape(limit_indices), tuple(strides or (1,) * x.type.rank)
    )


def cut(
    b: Emitter, x: Operand, starts: Sequence[Size], limits: Sequence[Size], strides: Sequence[int]
) -> Operand:
    """Emits the slice of some axes; returns the operand itself where nothing is cut."""
    cuts = [
        (axis, known(start, "slice"), known(limit, "slice"), int(stride))
        for axis, (start, limit, stride) in enumerate(zip(starts, limits, strides, strict=True))
        if (start, limit, stride) != (0, x.type.shape[axis], 1)
    ]
    if not cuts:
        return x
    axes, start, limit, stride = zip(*cuts, strict=True)
    return b.emit(Slice(axes, start, limit, stride), x)


@primitive("split")
def split(b: Emitter, x: Operand, *, sizes: Sequence[Any], axis: int, **_: Any) -> Sequence[Value]:
    """Consecutive parts along an axis."""
    return b.emit_node(Split(axis, tuple(map(int, sizes))), [b.value(x)]).outputs


@primitive("pad")
def pad(
    b: Emitter, x: Operand, value: Operand, *, padding_config: Sequence[Any], **_: Any
) -> Operand:
    """A constant around and between the numbers of the operand; negative padding crops."""
    config = [tuple(map(int, entry)) for entry in padding_config]
    if not isinstance(value, Known):
        raise UnsupportedError("pad: expected a constant to pad with")
    number = float(value.array.reshape(()))
    for axis, (*_edges, between) in enumerate(config):
        if between:
            x = _spread(b, x, axis, between, number)
    shape = x.type.shape
    starts = [max(-low, 0) for low, _, _ in config]
    limits: list[Size] = [
        known(size, "pad") + high if high < 0 else size
        for size, (_, high, _) in zip(shape, config, strict=True)
    ]
    inside = cut(b, x, starts, limits, (1,) * len(shape))
    low, high = (tuple(max(entry[side], 0) for entry in config) for side in (0, 1))
    return b.emit(Pad(low, high, number), inside) if any((*low, *high)) else inside


def _spread(b: Emitter, x: Operand, axis: int, between: int, number: float) -> Operand:
    """Puts a number, several times, between the places along an axis."""
    shape = x.type.shape
    count = known(shape[axis], "pad")
    if count < 2:
        return x
    column = b.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    high = tuple(between if at == axis + 1 else 0 for at in range(len(shape) + 1))
    rows = b.emit(Pad((0,) * len(high), high, number), column)
    size = count * (between + 1)
    flat = b.reshape(rows, (*shape[:axis], size, *shape[axis + 1 :]))
    limits = (*shape[:axis], size - between, *shape[axis + 1 :])
    return cut(b, flat, [0] * len(shape), limits, (1,) * len(shape))


@primitive("iota")
def iota(b: Emitter, *, dtype: Any, shape: Sequence[Any], dimension: int, **_: Any) -> Operand:
    """Counting along an axis; one whose size is a name would use it as a value."""
    return b.emit(Iota(to_shape(shape), DType.of(dtype), dimension))


@primitive("dim_as_value")
def dim_as_value(b: Emitter, *, dim: Any, **_: Any) -> Operand:
    """Always refused: the size of a named dimension as a number."""
    raise QirError(f"dimension: expected a known size where it is used as a number, got {dim}")
