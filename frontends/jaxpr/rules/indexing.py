"""Primitives that choose places by indices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from qir.errors import UnsupportedError
from qir.frontends.jaxpr.primitives import primitive
from qir.frontends.jaxpr.rules.shape import cut
from qir.frontends.jaxpr.shapes import to_shape
from qir.frontends.shared.emitter import Emitter, Operand, known_integers
from qir.frontends.shared.known import Known, is_known
from qir.ir import Value
from qir.ops import Add, Concat, Gather, Maximum, Minimum, Mul
from qir.types import Array, Dim, Shape, Size, TensorType, known


@primitive("gather")
def gather(
    b: Emitter,
    x: Operand,
    indices: Operand,
    *,
    dimension_numbers: Any,
    slice_sizes: Sequence[Any],
    **_: Any,
) -> Operand:
    """Places along one axis (an embedding), or one window at a constant place (a slice).

    An index outside the axis means the nearest place, also where `jnp.take` would fill in NaN.
    """
    sizes = to_shape(slice_sizes)
    if dimension_numbers.operand_batching_dims:
        return _by_tuples(b, x, indices, dimension_numbers, sizes)
    axes = tuple(dimension_numbers.start_index_map)
    if isinstance(indices, Known) and indices.type.rank == 1:
        start = dict(zip(axes, known_integers(indices, "gather"), strict=True))
        window = window_at(b, x, [start.get(axis, 0) for axis in range(x.type.rank)], sizes)
        collapsed = dimension_numbers.collapsed_slice_dims
        return b.reshape(
            window, tuple(size for axis, size in enumerate(sizes) if axis not in collapsed)
        )
    if len(axes) > 1 and isinstance(indices, Known):
        grid = _grid(b, x, indices.full, axes, dimension_numbers, sizes)
        if grid is not None:
            return grid
    whole = [axis for axis in range(x.type.rank) if sizes[axis] == x.type.shape[axis]]
    chosen_axes = [axis for axis in axes if axis not in whole]
    if len(axes) > 1 and len(chosen_axes) == 1:
        # As of a dynamic_slice under vmap: a window as large as its axis begins at 0.
        indices = _column(b, indices, axes.index(chosen_axes[0]))
        axes = (chosen_axes[0],)
    if len(axes) > 1:
        return _by_tuples(b, x, indices, dimension_numbers, sizes)
    if len(axes) != 1 or sizes[axes[0]] != 1 or set(whole) | set(axes) != set(range(x.type.rank)):
        raise UnsupportedError(
            f"gather: expected places along one axis, got slices {slice_sizes} along {axes}"
        )
    axis = axes[0]
    chosen = b.emit(Gather(axis), x, b.reshape(indices, indices.type.shape[:-1]))
    count = indices.type.rank - 1
    # Here the indices' axes stand where the operand's axis was; jax puts the others at offset_dims.
    kept = [*range(axis), *range(axis + count, chosen.type.rank)]
    if axis not in dimension_numbers.collapsed_slice_dims:
        kept.insert(axis, -1)
    return _placed(b, chosen, kept, range(axis, axis + count), dimension_numbers)


def _by_tuples(
    b: Emitter, x: Operand, indices: Operand, dimension_numbers: Any, sizes: Shape
) -> Operand:
    """Emits a choice of places along several axes at once, as of `x[rows, columns]`.

    The axes become one, and so do those that operand and indices have in common, as of
    `jnp.take_along_axis`, where each row has places of its own.
    """
    shape = x.type.shape
    # A window as large as its axis begins at 0.
    starts = {
        axis: place
        for place, axis in enumerate(map(int, dimension_numbers.start_index_map))
        if sizes[axis] == 1 or sizes[axis] != shape[axis]
    }
    axes = tuple(starts)
    common = tuple(dimension_numbers.operand_batching_dims)
    rest = [axis for axis in range(x.type.rank) if axis not in (*common, *axes)]
    if any(sizes[axis] != 1 for axis in axes) or any(sizes[axis] != shape[axis] for axis in rest):
        raise UnsupportedError(
            f"gather: expected one place along each axis, got slices {sizes} along {axes}"
        )
    at = indices.type.with_shape(*indices.type.shape[:-1])
    counts = [_count(at, place) for place in dimension_numbers.start_indices_batching_dims]
    columns = [
        _inside(b, b.reshape(_column(b, indices, place), at.shape), shape[axis])
        for axis, place in starts.items()
    ]
    merged = (*common, *axes)
    terms: list[Operand] = [*counts, *columns]
    flat = terms[0]
    for axis, place in zip(merged[1:], terms[1:], strict=True):
        row = b.compute(Mul(), flat, b.scalar(known(shape[axis], "gather"), at))
        flat = b.compute(Add(), row, place)
    whole: Size = 1
    for axis in merged:
        whole = whole * shape[axis]
    rows = b.reshape(b.transpose(x, (*merged, *rest)), (whole, *(shape[axis] for axis in rest)))
    chosen = b.emit(Gather(0), rows, flat)
    missing = (*common, *dimension_numbers.collapsed_slice_dims)
    kept = [
        at.rank + rest.index(axis) if axis in rest else -1
        for axis in range(x.type.rank)
        if axis not in missing
    ]
    return _placed(b, chosen, kept, range(at.rank), dimension_numbers)


def _count(type: TensorType, axis: int) -> Known:
    """Returns the numbers of the places along an axis."""
    size = type.shape[axis]
    if isinstance(size, Dim):
        raise UnsupportedError(
            f"gather: expected a known number of rows that have places of their own, got {size}; "
            "import with a known size"
        )
    along = [-1 if at == axis else 1 for at in range(type.rank)]
    return Known.of(np.arange(size, dtype=type.dtype.numpy).reshape(along), type.shape)


def _inside(b: Emitter, places: Operand, size: Size) -> Operand:
    """Returns the nearest places that there are."""
    last = b.scalar(known(size, "gather") - 1, places.type)
    return b.compute(Minimum(), b.compute(Maximum(), places, b.scalar(0, places.type)), last)


def _placed(
    b: Emitter, chosen: Operand, kept: Sequence[int], places: Iterable[int], dimension_numbers: Any
) -> Operand:
    """Puts the axes of a choice where jax has them.

    Args:
        b: Where to write.
        chosen: The choice.
        kept: The axes of it that stand at `offset_dims`, -1 for one of size 1 that it lacks.
        places: The axes that were those of the indices.
        dimension_numbers: As the primitive has them.
    """
    order = dict(zip(dimension_numbers.offset_dims, kept, strict=True))
    others = iter(places)
    rank = chosen.type.rank + list(kept).count(-1)
    sources = [order[place] if place in order else next(others) for place in range(rank)]
    moved = b.transpose(chosen, [source for source in sources if source >= 0])
    return b.reshape(
        moved, tuple(1 if source < 0 else chosen.type.shape[source] for source in sources)
    )


def _grid(
    b: Emitter,
    x: Operand,
    indices: Array,
    axes: tuple[int, ...],
    dimension_numbers: Any,
    sizes: Shape,
) -> Operand | None:
    """Emits a choice of places along each of several axes, as of `x[:, ::2, ::2]`, or None.

    That is what a gather is where the places along an axis depend on one axis of the indices that
    no other depends on: a choice along one axis after the other.
    """
    collapsed = tuple(dimension_numbers.collapsed_slice_dims)
    rank = indices.ndim - 1
    read: dict[int, int] = {}
    starts = [0] * x.type.rank
    for place, axis in enumerate(axes):
        column = indices[..., place]
        varied = [at for at in range(rank) if np.any(column != np.take(column, [0], axis=at))]
        if not varied and column.size:
            starts[axis] = int(column.flat[0])
        elif len(varied) != 1 or varied[0] in read or axis not in collapsed:
            return None
        else:
            read[varied[0]] = axis
    chosen = {axis: at for at, axis in read.items()}
    x = window_at(
        b,
        x,
        starts,
        tuple(x.type.shape[axis] if axis in chosen else size for axis, size in enumerate(sizes)),
    )
    for axis, at in chosen.items():
        column = np.moveaxis(indices[..., axes.index(axis)], at, 0)
        extent = known(x.type.shape[axis], "gather")
        places = column.reshape(column.shape[0], -1)[:, 0].clip(0, extent - 1)
        x = b.emit(Gather(axis), x, Known.of(places.astype(np.int32)))
    if any(indices.shape[at] > 1 and at not in read for at in range(rank)):
        return None
    offsets = dict(
        zip(
            dimension_numbers.offset_dims,
            (axis for axis in range(x.type.rank) if axis not in collapsed),
            strict=True,
        )
    )
    ats = iter(range(rank))
    sources = [
        offsets[place] if place in offsets else read.get(next(ats), -1)
        for place in range(rank + len(offsets))
    ]
    moved = [source for source in sources if source >= 0]
    dropped = [axis for axis in collapsed if axis not in moved]
    y = b.transpose(x, moved + dropped)
    return b.reshape(y, tuple(1 if at < 0 else x.type.shape[at] for at in sources))


def _column(b: Emitter, indices: Operand, place: int) -> Operand:
    """Returns one of the starts that stand side by side along the last axis."""
    last = indices.type.rank - 1
    if isinstance(indices, Known) and is_known(indices.shape):
        return Known.of(indices.full[..., place : place + 1])
    match indices:
        case Value(Concat(axis=axis), columns) if axis == last and len(columns) > place:
            if all(column.type.shape[last] == 1 for column in columns):
                return columns[place]
        case _:
            pass
    starts, limits = [0] * last + [place], (*indices.type.shape[:-1], place + 1)
    return cut(b, indices, starts, limits, (1,) * indices.type.rank)


@primitive("dynamic_slice")
def dynamic_slice(
    b: Emitter, x: Operand, *starts: Operand, slice_sizes: Sequence[Any], **_: Any
) -> Operand:
    """A window at a constant place, or one place along one axis, that is computed.

    A place outside of the axis means the nearest one.
    """
    sizes = to_shape(slice_sizes)
    computed = [
        axis
        for axis, start in enumerate(starts)
        if not isinstance(start, Known) and sizes[axis] != x.type.shape[axis]
    ]
    places = [
        known_integers(start, "dynamic_slice")[0] if isinstance(start, Known) else 0
        for start in starts
    ]
    if not computed:
        return window_at(b, x, places, sizes)
    if len(computed) > 1 or sizes[computed[0]] != 1:
        raise UnsupportedError(
            "dynamic_slice: expected one place along one axis where the start is computed, got "
            f"slices of {TensorType(sizes, x.type.element)} along axes {computed} of {x.type}; "
            "read place by place, or by x[start + jnp.arange(size)]"
        )
    (axis,) = computed
    whole = tuple(x.type.shape[at] if at == axis else size for at, size in enumerate(sizes))
    chosen = b.emit(Gather(axis), window_at(b, x, places, whole), starts[axis])
    return b.reshape(chosen, sizes)


def window_at(b: Emitter, x: Operand, starts: Sequence[int], sizes: Shape) -> Operand:
    """Returns the window that begins at some places, or as near to them as it fits in."""
    clamped: list[Size] = []
    limits: list[Size] = []
    for start, size, whole in zip(starts, sizes, x.type.shape, strict=True):
        if size == whole:
            clamped.append(0)
            limits.append(whole)
        else:
            extent = known(size, "slice")
            place = min(max(start, 0), known(whole, "slice") - extent)
            clamped.append(place)
            limits.append(place + extent)
    return cut(b, x, clamped, limits, (1,) * len(sizes))
