"""Pools over spatial windows."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from qir.backends.cpu.kernels.pool import AXES, Pool
from qir.backends.cpu.kernels.reduce import TERM_BYTES, Combination
from qir.backends.cpu.patterns.dense import is_bytes
from qir.backends.cpu.patterns.reduce import (
    Rescaled,
    blocks,
    combination,
    has_bytes,
    is_unsigned,
    rescaled,
)
from qir.backends.cpu.target import Target
from qir.backends.native.pattern import Cover, Region, covers
from qir.ir import Node
from qir.ops import AvgPool, MaxPool
from qir.ops.pool import Pool as PoolOp

MOST_TAPS = 4096
"""In a window over padding, which has terms for each number of taps."""


@covers(MaxPool)
def max_pool(op: MaxPool, node: Node, _: Target) -> Cover | str:
    """The greatest stored number of each window."""
    (x,) = node.inputs
    if not has_bytes(x):
        return "not stored in 8 bits"
    return _pool(op, node, combination("greatest", x))


@covers(AvgPool)
def avg_pool(op: AvgPool, node: Node, _: Target) -> Cover | str:
    """The mean of each window, rescaled by terms for the number of its taps in the tensor."""
    (x,) = node.inputs
    if not is_bytes(x) or not is_bytes(node.output):
        return "a sum without codes of 8 bits"
    most = prod(op.window)
    padded = op.padding == "same" or any(map(any, op.padding if op.padding != "valid" else ()))
    if padded and most > MOST_TAPS:
        return f"a window of more than {MOST_TAPS} taps over padding"
    counts = np.arange(1, most + 1) if padded else np.array([most])
    divisors = np.full_like(counts, most) if op.count_padding else counts
    sums = rescaled(x, node.output, counts, divisors)
    return sums if isinstance(sums, str) else _pool(op, node, combination("sum", x, most), sums)


def _pool(op: PoolOp, node: Node, way: Combination, sums: Rescaled | None = None) -> Cover:
    (x,) = node.inputs

    def write(region: Region) -> None:
        batch, *sizes, channels = region.shape(x)
        places = region.shape(node.output)[1:-1]
        strides, padding = op.geometry(tuple(sizes))
        before = [first for first, _ in padding]

        def spread(values: Sequence[int], missing: int) -> Sequence[int]:
            """Returns a number for every axis; a single axis is one of rows, not of pixels."""
            if len(values) == 1:
                return (missing, values[0], missing)
            return (*[missing] * (len(AXES) - len(values)), *values)

        per_axis = {
            "size": spread(sizes, 1),
            "places": spread(places, 1),
            "window": spread(op.window, 1),
            "stride": spread(strides, 1),
            "before": spread(before, 0),
        }
        words = {
            f"{what}_{axis}": values[index]
            for what, values in per_axis.items()
            for index, axis in enumerate(AXES)
        }
        rows = batch * prod(per_axis["places"][:-1])
        line = per_axis["size"][-1] * channels
        block = blocks(rows, line * prod(per_axis["window"][:-1]), region)
        words |= {
            "rows": rows,
            "block_rows": block,
            "channels": channels,
            "ranges": 1,
            "range_channels": channels,
            "out_pixel": region.pitch(node.output),
        }
        tensors = {"x": region.read(x), "out": region.write(node.output)}
        if sums is not None:
            # Terms of a table begin at one tap; there is a row for none.
            table = sums.terms
            if len(table) > 1:
                table = np.concatenate([np.zeros_like(table[:1]), table])
            tensors["terms"] = region.parameter(table)
            words |= {**sums.words, "term_bytes": TERM_BYTES if len(table) > 1 else 0}
        region.plan.step(
            node.output.name,
            Pool(way, is_unsigned(node.output)),
            words,
            tensors,
            tasks=-(-rows // block),
            scratch=line * way.bits // 8,
        )

    return Cover((node,), (x,), write, rows_apart=True)
