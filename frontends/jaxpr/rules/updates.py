"""Primitives that write over a part of an array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from qir.errors import UnsupportedError
from qir.frontends.jaxpr.primitives import primitive
from qir.frontends.jaxpr.rules.indexing import window_at
from qir.frontends.shared.emitter import Emitter, Operand, known_integers
from qir.frontends.shared.known import Known
from qir.ops import Add, And, Concat, Equal, Maximum, Minimum, Mul, Select
from qir.ops.op import Op
from qir.types import known


@primitive("dynamic_update_slice")
def dynamic_update_slice(
    b: Emitter, x: Operand, update: Operand, *starts: Operand, **_: Any
) -> Operand:
    """A window that is written over, as near to its start as it fits in."""
    return _written(b, x, update, starts, clamped=True)


@primitive("scatter")
def scatter(b: Emitter, *operands: Operand, **parameters: Any) -> Operand:
    """One place that is written over, as by `x.at[i, j].set(y)`."""
    return _at_place(b, None, *operands, **parameters)


@primitive("scatter-add")
def scatter_add(b: Emitter, *operands: Operand, **parameters: Any) -> Operand:
    """One place that is added to, as by `x.at[i, j].add(y)`."""
    return _at_place(b, Add(), *operands, **parameters)


@primitive("scatter-mul")
def scatter_mul(b: Emitter, *operands: Operand, **parameters: Any) -> Operand:
    """One place that is multiplied, as by `x.at[i, j].multiply(y)`."""
    return _at_place(b, Mul(), *operands, **parameters)


@primitive("scatter-max")
def scatter_max(b: Emitter, *operands: Operand, **parameters: Any) -> Operand:
    """One place that is made as large as a number, as by `x.at[i, j].max(y)`."""
    return _at_place(b, Maximum(), *operands, **parameters)


@primitive("scatter-min")
def scatter_min(b: Emitter, *operands: Operand, **parameters: Any) -> Operand:
    """One place that is made as small as a number, as by `x.at[i, j].min(y)`."""
    return _at_place(b, Minimum(), *operands, **parameters)


def _at_place(
    b: Emitter,
    combine: Op | None,
    x: Operand,
    indices: Operand,
    update: Operand,
    *,
    dimension_numbers: Any,
    mode: Any,
    **_: Any,
) -> Operand:
    """Writes over one place, by what is there and an update where an op combines them."""
    axes = list(map(int, dimension_numbers.scatter_dims_to_operand_dims))
    places = list(map(int, dimension_numbers.inserted_window_dims))
    if indices.type.rank != 1 or sorted(axes) != places:
        raise UnsupportedError(
            f"scatter: expected one place along each axis, got indices {indices.type} along axes "
            f"{axes} of {x.type}; write place by place, or choose by jnp.where"
        )
    starts: list[Operand] = [Known.of(np.zeros((), np.int32))] * x.type.rank
    for place, axis in enumerate(axes):
        starts[axis] = b.reshape(window_at(b, indices, [place], (1,)), ())
    rest = iter(update.type.shape)
    shape = tuple(1 if axis in places else next(rest) for axis in range(x.type.rank))
    clamped = mode is GatherScatterMode.CLIP
    return _written(b, x, b.reshape(update, shape), starts, combine, clamped=clamped)


def _written(
    b: Emitter,
    x: Operand,
    update: Operand,
    starts: Sequence[Operand],
    combine: Op | None = None,
    *,
    clamped: bool,
) -> Operand:
    """Writes over a window.

    Along an axis where its start is computed it has one place, which is found by comparing.

    Args:
        b: Where to write.
        x: What is written over.
        update: What is written.
        starts: Where the window begins along each axis.
        combine: The op of what stands there and the update that gives what stands there then; None
            where it is the update.
        clamped: Whether a window that begins outside is moved inside, or not written.

    Raises:
        UnsupportedError: The window has more places along an axis where its start is computed.
    """
    sizes, whole = list(update.type.shape), x.type.shape
    places: list[int] = []
    mask: Operand | None = None
    for axis, start in enumerate(starts):
        if sizes[axis] == whole[axis] and (clamped or sizes[axis] != 1):
            places.append(0)
            continue
        extent = known(whole[axis], "update")
        if isinstance(start, Known):
            places.append(known_integers(start, "update")[0])
            if not clamped and not 0 <= places[-1] <= extent - known(sizes[axis], "update"):
                return x
            continue
        if sizes[axis] != 1:
            raise UnsupportedError(
                "dynamic_update_slice: expected one place along an axis where the start is "
                f"computed, got {update.type} along axis {axis} of {x.type}; write place by place, "
                "let a scan stack what each trip gives, or choose by jnp.where"
            )
        if clamped:
            dtype = start.type.dtype.numpy
            start = b.compute(Maximum(), start, Known.of(np.zeros((), dtype)))
            start = b.compute(Minimum(), start, Known.of(np.asarray(extent - 1, dtype)))
        counted = np.arange(extent, dtype=start.type.dtype.numpy)
        column = Known.of(counted.reshape(-1, *[1] * (x.type.rank - 1 - axis)))
        here = b.compute(Equal(), column, start)
        mask = here if mask is None else b.compute(And(), mask, here)
        sizes[axis] = whole[axis]
        places.append(0)
    y = update
    if mask is not None or combine is not None:
        old = window_at(b, x, places, tuple(sizes))
        y = y if combine is None else b.compute(combine, old, y)
        y = y if mask is None else b.compute(Select(), mask, y, old)
    return _placed(b, x, y, places)


def _placed(b: Emitter, x: Operand, y: Operand, starts: Sequence[int]) -> Operand:
    """Writes over a window at a constant place."""
    for axis in reversed(range(x.type.rank)):
        # The window grows by one axis at a time, of what stands around it in x.
        extent, size = x.type.shape[axis], y.type.shape[axis]
        if extent == size:
            continue
        start = starts[axis]
        place = min(max(start, 0), known(extent, "slice") - known(size, "slice"))
        limits = place, place + known(size, "slice")
        around = [
            window_at(
                b,
                x,
                [first if at == axis else starts[at] for at in range(x.type.rank)],
                tuple(
                    last - first if at == axis else y.type.shape[at] for at in range(x.type.rank)
                ),
            )
            if last > first
            else None
            for first, last in ((0, limits[0]), (limits[1], known(extent, "slice")))
        ]
        before, behind = around
        parts = [part for part in (before, y, behind) if part is not None]
        y = b.emit(Concat(axis), *parts)
    return y
