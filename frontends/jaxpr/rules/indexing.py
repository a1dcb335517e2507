"""Primitives that choose places by indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qir.errors import UnsupportedError
from qir.frontends.jaxpr.primitives import primitive
from qir.frontends.jaxpr.rules.shape import cut
from qir.frontends.jaxpr.shapes import to_shape
from qir.frontends.shared.emitter import Emitter, Operand, known_integers
from qir.frontends.shared.known import Known
from qir.ir import Value
from qir.ops import Concat, Gather
from qir.types import Shape, Size, known


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
        raise UnsupportedError("gather: expected no batching dimensions")
    axes = tuple(dimension_numbers.start_index_map)
    if isinstance(indices, Known) and indices.type.rank == 1:
        start = dict(zip(axes, known_integers(indices, "gather"), strict=True))
        window = _window(b, x, [start.get(axis, 0) for axis in range(x.type.rank)], sizes)
        collapsed = dimension_numbers.collapsed_slice_dims
        return b.reshape(
            window, tuple(size for axis, size in enumerate(sizes) if axis not in collapsed)
        )
    whole = [axis for axis in range(x.type.rank) if sizes[axis] == x.type.shape[axis]]
    chosen_axes = [axis for axis in axes if axis not in whole]
    if len(axes) > 1 and len(chosen_axes) == 1:
        # As of a dynamic_slice under vmap: a window as large as its axis begins at 0.
        indices = _column(b, indices, axes.index(chosen_axes[0]))
        axes = (chosen_axes[0],)
    if len(axes) != 1 or sizes[axes[0]] != 1 or set(whole) | set(axes) != set(range(x.type.rank)):
        raise UnsupportedError(
            f"gather: expected places along one axis, got slices {slice_sizes} along {axes}"
        )
    axis = axes[0]
    chosen = b.emit(Gather(axis), x, b.reshape(indices, indices.type.shape[:-1]))
    count = indices.type.rank - 1
    kept = [*range(axis), *range(axis + count, chosen.type.rank)]
    if axis not in dimension_numbers.collapsed_slice_dims:
        kept.insert(axis, -1)
    # Here the indices' axes stand where the operand's axis was; jax puts the others at offset_dims.
    rank = count + len(kept)
    order = dict(zip(dimension_numbers.offset_dims, kept, strict=True))
    places = iter(range(axis, axis + count))
    sources = [order[place] if place in order else next(places) for place in range(rank)]
    moved = b.transpose(chosen, [source for source in sources if source >= 0])
    return b.reshape(
        moved, tuple(1 if source < 0 else chosen.type.shape[source] for source in sources)
    )


def _column(b: Emitter, indices: Operand, place: int) -> Operand:
    """Returns one of the starts that stand side by side along the last axis."""
    last = indices.type.rank - 1
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
    """A window at a constant place."""
    places = [known_integers(start, "dynamic_slice")[0] for start in starts]
    return _window(b, x, places, to_shape(slice_sizes))


def _window(b: Emitter, x: Operand, starts: Sequence[int], sizes: Shape) -> Operand:
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
