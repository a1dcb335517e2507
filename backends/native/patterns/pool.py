"""Pools over spatial windows."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.dense import AXES
from qir.backends.native.kernels.pool import PoolKernel
from qir.backends.native.kernels.reduce import Combination
from qir.backends.native.pattern import Match, Region, pattern
from qir.backends.native.patterns.epilogue import BYTES, is_bytes
from qir.backends.native.patterns.reduce import blocks, combination, has_bytes
from qir.backends.native.patterns.sums import SumsEpilogue, rounded, rounding_once, sums_epilogue
from qir.errors import QirError
from qir.ir import Node, Value
from qir.numbers.rounding import rounding_mode
from qir.ops import AvgPool, MaxPool
from qir.ops.pool import Pool
from qir.types import Affine, Array

MOST_TAPS = 4096
"""In a window over padding, which has terms for each number of taps."""


@pattern(MaxPool)
def max_pool(op: MaxPool, node: Node, _: InstructionSet) -> Match | str:
    """The greatest stored number of each window."""
    (x,) = node.inputs
    if not has_bytes(x):
        return "not stored in 8 bits"
    return _pool(op, node, combination("greatest", x))


@pattern(AvgPool)
def avg_pool(op: AvgPool, node: Node, _: InstructionSet) -> Match | str:
    """The sum of each window, by terms for the number of its taps in the tensor."""
    (x,) = node.inputs
    if not is_bytes(x):
        return "a sum without codes of 8 bits"
    most = prod(op.window)
    padded = op.padding == "same" or any(map(any, op.padding if op.padding != "valid" else ()))
    if padded and most > MOST_TAPS:
        return f"a window of more than {MOST_TAPS} taps over padding"
    counts = np.arange(1, most + 1) if padded else np.array([most])
    sums = sums_epilogue(x, node.output, counts) if op.to is None else _means(op, x, op.to, counts)
    return sums if isinstance(sums, str) else _pool(op, node, combination("sum", x, most), sums)


def _means(op: AvgPool, x: Value, to: Affine, counts: Array) -> SumsEpilogue | str:
    """Returns how sums become means over as many bytes as they have."""
    if to.storage not in BYTES:
        return "a sum without codes of 8 bits"
    try:
        multipliers = op.multipliers(x.type, counts)
    except QirError:
        # A number of taps that no window has may be the one out of reach.
        return "a multiplier out of reach"
    mode = rounding_mode(op.rounding)
    form = rounding_once(mode.machine_form(multipliers, to.zero_points, *to.range))
    if form is None:
        return f"no kernel for the machine form of the rounding {op.rounding}"
    return rounded(x, counts, form, to, to.range)


def _pool(op: Pool, node: Node, way: Combination, sums: SumsEpilogue | None = None) -> Match:
    (x,) = node.inputs
    nodes = (node, *(() if sums is None else sums.nodes))
    result = nodes[-1].output

    def write(region: Region) -> None:
        batch, *sizes, channels = region.shape(x)
        places = region.shape(result)[1:-1]
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
        parameters = {
            f"{what}_{axis}": values[index]
            for what, values in per_axis.items()
            for index, axis in enumerate(AXES)
        }
        rows = batch * prod(per_axis["places"][:-1])
        line = per_axis["size"][-1] * channels
        block = blocks(rows, line * prod(per_axis["window"][:-1]), region)
        parameters |= {
            "rows": rows,
            "block_rows": block,
            "channels": channels,
            "ranges": 1,
            "range_channels": channels,
            "out_pixel": region.pitch(result),
        }
        tensors = {"x": region.read(x), "out": region.write(result)}
        if sums is not None:
            # Terms of a table begin at one tap; there is a row for none.
            table = sums.terms
            if len(table) > 1:
                table = np.concatenate([np.zeros_like(table[:1]), table])
            tensors["terms"] = region.constant(table)
            parameters |= {
                **sums.parameters,
                "term_bytes": table[0].nbytes if len(table) > 1 else 0,
            }
        region.plan.step(
            result.name,
            PoolKernel(way, "signed" if sums is None else sums.to),
            parameters,
            tensors,
            tasks=-(-rows // block),
            scratch=line * way.bits // 8,
        )

    return Match(nodes, (x,), write, rows_apart=True)
