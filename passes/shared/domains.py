"""Where functions are finite: operands that codes must not lead out of what data had."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from qir.ir import Builder, Node, Value
from qir.numbers.interval import EVERYTHING, Interval
from qir.ops import Clip, Dequantize, Equal, Select
from qir.ops.normalization import Normalization
from qir.ops.op import Op
from qir.ops.rules import Accumulate
from qir.ops.traits import Edge
from qir.types import Affine, DType

_TINY = float(np.finfo(np.float32).tiny)


def _excludes(edge: Edge, bounds: Interval) -> bool:
    """Whether bounds keep an operand away from where an op is not finite."""
    low, high = bounds.bounds
    # What is less than a normal number, or than a step beside the edge, may round to it.
    margin = _TINY + 2.0**-23 * abs(edge.number)
    above = low >= edge.number if edge.included else low > edge.number + margin
    return above or (edge.both and high < edge.number - margin)


class Domains:
    """Keeps ops of floating point finite whose operands follow from codes.

    What a code decodes to is off by half a step, and so is whatever is computed of it: a
    difference that was positive for all data may be 0 or negative then. Where that would leave the
    domain of a function, its operand is clipped to what data had.
    """

    def __init__(self) -> None:
        self._bounds: dict[Value, Interval] = {}
        self._rounded: set[Value] = set()

    def decoded(self, op: Op, position: int, value: Value, real: Value, builder: Builder) -> Value:
        """Keeps what a code decodes to where data was, if the op that reads it needs that.

        Args:
            op: The op that reads the operand in floating point.
            position: The operand's position.
            value: The value of the float program, with its range.
            real: What its code decodes to.
            builder: Where to build.

        Returns:
            `real`, clipped to the range of data that did not reach 0; else with half a step for 0
            where the op divides by it.
        """
        self._rounded.add(real)
        code = real.inputs[0].type.quant if isinstance(real.op, Dequantize) else None
        if real not in self._bounds:
            self._bounds[real] = _decoded(real)
        half = float(code.scale.array.min()) / 2 if isinstance(code, Affine) else None
        return self._inside(op, position, value, real, half, builder)

    def computed(self, op: Op, position: int, value: Value, builder: Builder) -> Value:
        """Keeps what is computed in floating point where data was, if it follows from codes.

        Args:
            op: The op that reads the operand.
            position: The operand's position.
            value: The operand, with its range in the float program.
            builder: Where to build.
        """
        if value not in self._rounded or (op.edge and _excludes(op.edge, self._known(value))):
            return value
        half = None
        if value.range is not None:
            # Half a step of the code of 8 bits that it does not have.
            half = max(map(abs, value.range.bounds)) / 510
        return self._inside(op, position, value, value, half, builder)

    def record(self, node: Node) -> None:
        """Finds what bounds a node of floating point whose operands are what they will be.

        A norm of a row that codes make constant gives 0, as on codes: one without an epsilon gets
        the least.
        """
        if not self._rounded.intersection(node.inputs):
            return
        op = node.op
        if isinstance(op, Normalization) and op.epsilon == 0:
            changes: dict[str, Any] = {"epsilon": _TINY}
            node.op = replace(op, **changes)
        self._rounded.update(node.outputs)
        if len(node.outputs) != 1 or isinstance(node.op.quant, Accumulate) or node.regions:
            return
        self._bounds[node.outputs[0]] = _result(node.op, map(self._known, node.inputs))

    def _known(self, value: Value) -> Interval:
        if value.is_constant:
            return Interval.point(value.real)
        return self._bounds.get(value, EVERYTHING)

    def _inside(
        self,
        op: Op,
        position: int,
        value: Value,
        real: Value,
        least: float | None,
        builder: Builder,
    ) -> Value:
        edge = op.edge
        if edge is None or edge.operand != position or value.range is None:
            return real
        # A fixed code has a range that may reach farther than data did.
        had = value.range if value.observed is None else value.range.intersect(value.observed)
        low, high = had.bounds
        at_edge = edge.steep and low == edge.number
        if low > edge.number or high < edge.number or at_edge:
            kept = had
            if real is value:
                # What is computed may well be farther from the edge than data was.
                kept = Interval.of(-inf, high) if high < edge.number else Interval.of(low, inf)
            clipped = builder.emit(Clip(*kept.bounds), real)
            self._bounds[clipped] = kept
        elif edge.divides and least and real.type.dtype is DType.F32:
            zero = builder.const(np.float32(0), "zero")
            half = builder.const(np.float32(least), "half_a_step")
            is_zero = _noted(op, builder.emit(Equal(), real, zero))
            clipped = builder.emit(Select(), is_zero, half, real)
        else:
            return real
        self._rounded.add(clipped)
        return _noted(op, clipped)


def _result(op: Op, operands: Iterable[Interval]) -> Interval:
    found = op.interval(*operands)
    low, high = found.bounds
    return found if low <= high else EVERYTHING


def _decoded(value: Value) -> Interval:
    """Bounds the numbers that a code, or an exact sum of codes, stands for."""
    code = value.type.quant
    if value.is_constant:
        return Interval.point(value.real)
    if isinstance(code, Affine) and code.per_tensor and code.storage.bits <= 16:
        return Interval.of(*np.sort(code.decode(np.asarray(code.range))))
    if value.op is None or value.index or isinstance(value.op.quant, Accumulate):
        return EVERYTHING
    return _result(value.op, map(_decoded, value.inputs))


def _noted(op: Op, value: Value) -> Value:
    assert value.node is not None
    value.node.note = f"it keeps {op.name}, which stays float, from numbers that data did not have"
    return value
