"""raise-resizes: gathers at constant places and repeats become nearest-neighbour resizing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import get_args

from qir.ir import Builder, Value
from qir.ops import Broadcast, Gather, Reshape, ResizeNearest
from qir.ops.resize import Coordinates, Nearest
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import rule
from qir.types import Shape


@rule(Gather)
def resize_by_gather(y: Value, b: Builder) -> Value | None:
    """Recognises constant places along a spatial axis that a resize would take."""
    match y:
        case Value(Gather(axis=axis), (x, indices)):
            if not indices.is_constant or indices.type.rank != 1:
                return None
            return _resize(y, x, axis, [int(place) for place in indices.array], b)
        case _:
            return None


@rule(Reshape)
def resize_by_repeat(y: Value, b: Builder) -> Value | None:
    """Recognises a spatial axis whose places are repeated: a new axis beside it, merged into it."""
    match y:
        case Value(
            Reshape(), (Value(Broadcast(), (Value(Reshape(), (x,)) as spread,)) as repeated,)
        ):
            if not (x.type.rank == y.type.rank == repeated.type.rank - 1):
                return None
        case _:
            return None
    for axis in range(1, x.type.rank - 1):
        size, count = x.type.shape[axis], repeated.type.shape[axis + 1]
        if not isinstance(size, int) or not isinstance(count, int):
            continue
        shapes = [
            _with_sizes(x.type.shape, axis, size, 1),
            _with_sizes(x.type.shape, axis, size, count),
            _with_sizes(x.type.shape, axis, size * count),
        ]
        if shapes == [spread.type.shape, repeated.type.shape, y.type.shape]:
            return _resize(y, x, axis, [place // count for place in range(size * count)], b)
    return None


def _with_sizes(shape: Shape, axis: int, *sizes: int) -> Shape:
    """Returns a shape with other sizes in place of one."""
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


def _resize(y: Value, x: Value, axis: int, places: Sequence[int], b: Builder) -> Value | None:
    sizes = tuple(size for size in y.type.shape[1:-1] if isinstance(size, int))
    count = x.type.rank - 2
    if len(sizes) != count or not 1 <= count <= 3 or not 1 <= axis <= count:
        return None
    before = x.type.shape[axis]
    if not isinstance(before, int) or not all((before, *sizes)):
        return None
    for coordinates, nearest in product(get_args(Coordinates), get_args(Nearest)):
        op = ResizeNearest(sizes, coordinates, nearest)
        if op.places(before, len(places)) == list(places):
            return b.emit(op, x)
    return None


@rule(ResizeNearest)
def resize_of_resize(y: Value, b: Builder) -> Value | None:
    """Makes one resize of two that treat different axes by one rule."""
    (between,) = y.inputs
    match y.op, between:
        case ResizeNearest() as last, Value(ResizeNearest() as first, (x,)):
            is_one_rule = (last.coordinates, last.nearest) == (first.coordinates, first.nearest)
            stages = zip(x.type.shape[1:-1], first.sizes, last.sizes, strict=True)
            if is_one_rule and all(middle in (old, new) for old, middle, new in stages):
                return b.emit(last, x)
            return None
        case _:
            return None


@register
class RaiseResizes(Raising):
    """Finds nearest-neighbour resizing by gathers at constant places and by repeats."""

    name = "raise-resizes"
    rules = (resize_by_gather, resize_by_repeat, resize_of_resize)
