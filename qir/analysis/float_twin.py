"""Builds the float program that a simulation runs: each op of codes as one of real numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qir.analysis.sites import NUMBERS, Site, is_on_codes, rounds
from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ops import (
    Add,
    Cast,
    Cond,
    Const,
    Dequantize,
    Div,
    Equal,
    Maximum,
    Minimum,
    Mul,
    Quantize,
    Recode,
    Requantize,
    Reshape,
    Return,
    Round,
    Select,
    Slice,
)
from qir.ops.attributes import attribute_fields
from qir.ops.elementwise import Sum
from qir.ops.op import Op
from qir.ops.regions import RegionOp
from qir.ops.rules import Accumulate
from qir.types import Array, Code, DType, TensorType

CODES = "codes"
"""The name of the input that has the codes of all sites; a number makes it unique."""


def _real_type(type: TensorType) -> TensorType:
    return type if type.quant is None else type.with_element(DType.F32)


class _Scope:
    """A graph or region that is built.

    Args:
        graph: The graph.
        codes: The input that has the codes; None where they can't be handed in.
    """

    def __init__(self, graph: Graph, codes: Value | None) -> None:
        self.graph = graph
        self.codes = codes

    def number(self, index: int, builder: Builder, otherwise: float, rank: int) -> Value:
        """Returns one number of the codes, [1], or [] beside a scalar."""
        if self.codes is None:
            return builder.const(np.full((1,) * min(rank, 1), otherwise, np.float32))
        one = builder.emit(Slice((0,), (index,), (index + 1,)), self.codes)
        return one if rank else builder.emit(Reshape(()), one)


class FloatTwin:
    """One run over a program.

    Args:
        program: The program.
        sites: Its sites.
        weights: As of `simulate`.

    Attributes:
        graph: What is built.
        twins: The value built for each value of the program.
    """

    def __init__(
        self, program: Graph, sites: Sequence[Site], weights: Mapping[Value, Array]
    ) -> None:
        self.graph = Graph(program.name)
        self.twins: dict[Value, Value] = {}
        self._weights = weights
        self._sites = {site.value: (index, site) for index, site in enumerate(sites)}
        self._codes = TensorType((NUMBERS * max(1, len(sites)),), DType.F32)
        given = [self.graph.add_input(each.name, _real_type(each.type)) for each in program.inputs]
        scope = _Scope(self.graph, self.graph.add_input(CODES, self._codes))
        for value, twin in zip(program.inputs, given, strict=True):
            twin.origins = value.origins
            self.twins[value] = self._rounded(value, twin, scope, Builder(self.graph))
        self._build(program, scope)

    def _build(self, source: Graph, scope: _Scope) -> None:
        for node in source.nodes:
            if isinstance(node.op, Return):
                continue
            builder = Builder(scope.graph, loc=node.loc)
            results = self._results(node, builder, scope)
            for value, twin in zip(node.outputs, results, strict=True):
                if node.regions or not rounds(node):
                    found = twin
                else:
                    found = self._rounded(value, twin, scope, builder)
                found.origins = value.origins
                scope.graph.name_after(found, value.name)
                self.twins[value] = found
        scope.graph.set_outputs([self.twins[value] for value in source.outputs])

    def _results(self, node: Node, builder: Builder, scope: _Scope) -> Sequence[Value]:
        match node.op:
            case Const():
                return [self._constant(node.output, builder, scope)]
            case _ if is_on_codes(node):
                return self._on_codes(node, builder)
            case Quantize() | Dequantize() | Requantize():
                x = self.twins[node.inputs[0]]
                wanted = _real_type(node.output.type)
                return [builder.emit(Cast(wanted.dtype), x)]
            case Recode() as recode:
                return [self._recoded(node, recode, builder)]
            case RegionOp() as op:
                return self._regions(node, op, builder, scope)
            case op:
                return self._computed(node, op, builder, scope)

    def _constant(self, value: Value, builder: Builder, scope: _Scope) -> Value:
        if value.type.quant is None:
            assert isinstance(value.op, Const)
            return builder.const(value.op.array, element=value.type.element)
        if value not in self._sites:
            return builder.const(np.asarray(value.real, np.float32))
        real = builder.const(np.asarray(self._weights[value], np.float32))
        return self._rounded(value, real, scope, builder)

    def _bias(self, bias: Value, kernel: Value, builder: Builder, scope: _Scope) -> Value:
        """Returns a bias, which takes in as much of its weights' error as their step makes."""
        if bias not in self._weights or kernel not in self._sites or scope.codes is None:
            return self.twins[bias]
        index, site = self._sites[kernel]
        exact = np.asarray(self._weights[bias], np.float32)
        step = scope.number(NUMBERS * index, builder, site.numbers[0], 1)
        ratio = builder.emit(Div(), step, builder.const(np.array(site.numbers[:1], np.float32)))
        rest = builder.emit(Mul(), builder.const(bias.real.astype(np.float32) - exact), ratio)
        return builder.emit(Add(), builder.const(exact), rest)

    def _recoded(self, node: Node, op: Recode, builder: Builder) -> Value:
        """Returns what the same stored numbers mean under another code: an affine map."""
        (x,), shape = node.inputs, node.output.type.shape
        old, new = x.type.affine, node.output.type.affine
        scale = new.scale.array.astype(np.float64)
        factor = scale / old.scale.array
        offset = (old.zero_points + op.offset(x.type) - new.zero_points) * scale
        scaled = builder.emit(Mul(), self.twins[x], _spread(factor, shape, builder))
        return builder.emit(Add(), scaled, _spread(offset, shape, builder))

    def _on_codes(self, node: Node, builder: Builder) -> Sequence[Value]:
        """Computes an op on stored numbers, between casts."""
        operands = []
        for value in node.inputs:
            code = value.type.quant
            if isinstance(value.op, Const):
                operands.append(builder.const(value.op.array, element=value.type.element))
            elif code is None:
                operands.append(self.twins[value])
            elif code.storage.bits > 16:
                raise QirError(
                    f"simulation: {node.op.name} of %{node.outputs[0].name} has no meaning in real "
                    f"numbers, and %{value.name} is an exact sum; simulate the program as it is "
                    "right after pass quantize",
                    [node.outputs[0].place()],
                )
            else:
                to = _in_float32(code)
                operands.append(builder.emit(Quantize(to), self.twins[value]))
        results = builder.emit_node(node.op, operands).outputs
        return [
            value if value.type.quant is None else self._decoded(value, builder)
            for value in results
        ]

    @staticmethod
    def _decoded(value: Value, builder: Builder) -> Value:
        real = builder.emit(Dequantize(), value)
        return real if real.type.dtype is DType.F32 else builder.emit(Cast(DType.F32), real)

    def _computed(self, node: Node, op: Op, builder: Builder, scope: _Scope) -> Sequence[Value]:
        operands = [self.twins[value] for value in node.inputs]
        rule = op.quant
        if isinstance(rule, Accumulate) and len(operands) > rule.bias:
            kernel, bias = node.inputs[rule.right], node.inputs[rule.bias]
            operands[rule.bias] = self._bias(bias, kernel, builder, scope)
        is_coded = any(value.type.quant for value in (*node.inputs, *node.outputs))
        if is_coded:
            tables = op.integer_tables([value.type for value in node.inputs])
            if tables:
                operands = operands[: -len(tables)]
            # Parameters of norms, in the type that the codes stand for.
            wide = [value.type.is_float and value.type.dtype is not DType.F32 for value in operands]
            operands = [
                builder.emit(Cast(DType.F32), value) if is_other else value
                for value, is_other in zip(operands, wide, strict=True)
            ]
            if isinstance(op, Div):
                operands[1] = self._divisor(op, node.inputs[1], operands[1], builder)
            op = _without_code(op)
        results = builder.emit_node(op, operands).outputs
        return [
            twin
            if (wanted := _real_type(value.type).dtype) is twin.type.dtype
            else builder.emit(Cast(wanted), twin)
            for value, twin in zip(node.outputs, results, strict=True)
        ]

    @staticmethod
    def _divisor(op: Div, value: Value, twin: Value, builder: Builder) -> Value:
        """Returns a divisor with the step next to 0 in the place of 0, as the op has it."""
        low, high = op.divisor_steps(value.type)
        if not low <= 0 <= high:
            return twin
        step = value.type.code.greatest_scale * op.never_zero(value.type)
        zero, least = (builder.const(np.asarray(number, np.float32)) for number in (0, step))
        return builder.emit(Select(), builder.emit(Equal(), twin, zero), least, twin)

    def _regions(
        self, node: Node, op: RegionOp, builder: Builder, scope: _Scope
    ) -> Sequence[Value]:
        operands = [self.twins[value] for value in node.inputs]
        place = 1 if isinstance(op, Cond) else 0
        handed = scope.codes is not None and self._takes_codes(node, op, place)
        if handed:
            assert scope.codes is not None
            operands.insert(place, scope.codes)
        regions = []
        for region in node.regions:
            twin = Graph("")
            inner = _Scope(twin, twin.add_input(CODES, self._codes) if handed else None)
            for value in region.inputs:
                self.twins[value] = twin.add_input(value.name, _real_type(value.type))
                self.twins[value].origins = value.origins
            self._build(region, inner)
            regions.append(twin)
        return builder.emit_node(op, operands, regions).outputs

    @staticmethod
    def _takes_codes(node: Node, op: RegionOp, place: int) -> bool:
        """Whether an operand more goes into all regions, as their first input, and nowhere else."""
        count = len(node.regions)
        passages = op.passages(len(node.inputs) + 1, len(node.outputs), count)
        wanted = tuple((region, 0) for region in range(count))
        return any(
            each.kind == "invariant" and each.operand == place and each.inputs == wanted
            for each in passages
        )

    def _rounded(self, value: Value, twin: Value, scope: _Scope, builder: Builder) -> Value:
        """Returns numbers rounded to a value's code."""
        code = value.type.quant
        if code is None:
            return twin
        if value not in self._sites:
            return self._decoded(builder.emit(Quantize(_in_float32(code)), twin), builder)
        index, site = self._sites[value]
        rank, first = value.type.rank, NUMBERS * index
        step, low, high = (
            scope.number(first + offset, builder, number, rank)
            for offset, number in enumerate(site.numbers)
        )
        points, shape = site.code.zero_points, value.type.shape
        if site.code.scale.shape:
            ratios = site.code.scale.array / site.code.greatest_scale
            step = builder.emit(Mul(), step, _spread(ratios, shape, builder))
        if site.code.scale.shape or points.shape:
            # One number can't tell all of the bounds, but how far they are moved.
            scales = site.code.scale.array.astype(np.float64)
            low, high = (
                builder.emit(Add(), bound, _spread((end - points) * scales - own, shape, builder))
                for bound, end, own in zip((low, high), site.clamp, site.numbers[1:], strict=True)
            )
        steps = builder.emit(Round(), builder.emit(Div(), twin, step))
        rounded = builder.emit(Mul(), steps, step)
        return builder.emit(Minimum(), builder.emit(Maximum(), rounded, low), high)


def _spread(numbers: Array, shape: Sequence[Any], builder: Builder) -> Value:
    """Returns numbers whose dimensions divide those of a shape as a constant that broadcasts."""
    found = np.asarray(numbers, np.float32)
    for axis, count in enumerate(found.shape):
        if count != 1 and count != shape[axis]:
            found = np.repeat(found, shape[axis] // count, axis)
    return builder.const(found)


def _in_float32(code: Code) -> Code:
    return replace(code, expressed=DType.F32)


def _without_code(op: Op) -> Op:
    """Returns an op that rounds by itself as one of real numbers."""
    names = {spec.name for spec in attribute_fields(type(op))}
    if "to" not in names:
        return op
    changes: dict[str, Any] = {"to": None}
    if isinstance(op, Sum):
        changes |= {"rounding": "fixed31", "multipliers": None, "shift": None}
    return replace(op, **changes)
