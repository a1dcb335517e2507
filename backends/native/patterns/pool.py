"""Pools over spatial windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.dense import AXES
from qir.backends.native.kernels.pool import PoolKernel
from qir.backends.native.kernels.reduce import Combination
from qir.backends.native.pattern import Match, Placement, pattern
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
    writer = PoolWriter(op, node, way, sums)
    return Match(writer.nodes, node.inputs, writer.write, rows_apart=True)


@dataclass(frozen=True, eq=False)
class PoolWriter:
    """Writes the step of a pool.

    Attributes:
        op: The pool.
        node: Its node.
        way: How the numbers of a window are combined.
        sums: What is stored of sums.
    """

    op: Pool
    node: Node
    way: Combination
    sums: SumsEpilogue | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that it computes."""
        return (self.node, *(() if self.sums is None else self.sums.nodes))

    def geometry(self, placement: Placement) -> dict[str, tuple[int, ...]]:
        """Returns what the windows are, by name, for depth, height and width."""
        _, *sizes, _ = placement.shape(self.node.inputs[0])
        strides, padding = self.op.geometry(tuple(sizes))
        return {
            "size": _spread(sizes, 1),
            "places": _spread(placement.shape(self.node.output)[1:-1], 1),
            "window": _spread(self.op.window, 1),
            "stride": _spread(strides, 1),
            "before": _spread([first for first, _ in padding], 0),
        }

    def write(self, placement: Placement) -> None:
        """Adds the step."""
        (x,), result, sums = self.node.inputs, self.nodes[-1].output, self.sums
        batch, channels = placement.shape(x)[0], placement.shape(x)[-1]
        geometry = self.geometry(placement)
        rows = batch * prod(geometry["places"][:-1])
        line = geometry["size"][-1] * channels
        block = blocks(rows, line * prod(geometry["window"][:-1]), placement)
        parameters = {
            f"{name}_{axis}": number
            for name, numbers in geometry.items()
            for axis, number in zip(AXES, numbers, strict=True)
        }
        parameters |= {
            "rows": rows,
            "block_rows": block,
            "channels": channels,
            "ranges": 1,
            "range_channels": channels,
            "out_pixel": placement.pitch(result),
        }
        tensors = {"x": placement.read(x), "out": placement.write(result)}
        if sums is not None:
            # Terms of a table begin at one tap; there is a row for none.
            table = sums.terms
            if len(table) > 1:
                table = np.concatenate([np.zeros_like(table[:1]), table])
            tensors["terms"] = placement.constant(table)
            parameters |= sums.parameters
            parameters["term_bytes"] = table[0].nbytes if len(table) > 1 else 0
        placement.plan.step(
            result.name,
            PoolKernel(self.way, "signed" if sums is None else sums.to),
            parameters,
            tensors,
            tasks=-(-rows // block),
            scratch=line * self.way.bits // 8,
        )


def _spread(values: Sequence[int], missing: int) -> tuple[int, ...]:
    """Returns a number for every axis; a single axis is one of rows, not of pixels."""
    if len(values) == 1:
        return (missing, values[0], missing)
    return (*[missing] * (len(AXES) - len(values)), *values)
