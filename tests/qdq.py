"""Integer programs as programs of floats with quantize and dequantize around every op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from qir.ir import Builder, Graph, Value
from qir.ops import Clip, Const, Dequantize, Lookup, Lookup2, Quantize, Recode, Requantize, Return
from qir.ops.op import Op
from qir.ops.rules import FixedCode
from qir.types import Affine, Array, DType

STORED = (Lookup, Lookup2, Recode)
"""The ops that have no float form: they stay what they are."""

OWN = ("to", "rounding", "multipliers", "shift")
"""The attributes that an op has on codes only."""


def in_float(op: Op) -> Op:
    """Returns an op without what it has on codes only."""
    own: dict[str, Any] = {spec.name: spec.default for spec in fields(op) if spec.name in OWN}
    return replace(op, **own)


def with_codes(graph: Graph, arrays: Sequence[Array], rng: np.random.Generator) -> Graph:
    """Returns a program of floats with quantize and dequantize behind three quarters of its values.

    Args:
        graph: A program of floats.
        arrays: Its inputs, on which the codes of 8 bits are chosen.
        rng: Chooses the values.
    """
    copy = graph.copy()
    found = run_all(copy, *arrays)
    for value in list(copy.values()):
        numbers = found[value]
        if not value.type.is_float or not value.uses or not numbers.size or rng.random() < 0.25:
            continue
        low, high = float(min(numbers.min(), 0)), float(max(numbers.max(), 0))
        if not np.isfinite([low, high]).all():
            continue
        scale = max((high - low) / 255, 2.0**-20)
        point = int(np.clip(np.rint(-128 - low / scale), -128, 127))
        code = Affine.of(DType.I8, scale, point, expressed=value.type.dtype)
        nodes = list(copy.nodes)
        behind = nodes[nodes.index(value.node) + 1 if value.node else 0]
        coded = copy.before(behind).emit(Quantize(code), value)
        real = copy.before(behind).emit(Dequantize(), coded)
        readers = [node for node in value.users if node is not coded.node]
        value.replace_with(real, readers.__contains__)
    return copy


class Qdq:
    """The float program that an integer one stands for, with the same codes.

    Each op reads what dequantize decodes; its result goes through quantize and dequantize where it
    has a code of at most 16 bits. Accumulators are not rounded. A clamp becomes a clip.

    Args:
        graph: A program of ops on codes.
        rounding: The mode of each quantize that stands for an op's rounding.
    """

    def __init__(self, graph: Graph, rounding: str = "reciprocal") -> None:
        self.source = graph
        self.rounding = rounding
        self.graph = Graph(graph.name)
        self.stored: dict[Value, Value] = {}
        self.real: dict[Value, Value] = {}

    def build(self) -> Graph:
        """Returns the program."""
        for value in self.source.inputs:
            self.stored[value] = self.graph.add_input(value.name, value.type)
        builder = self.graph.at_end()
        for node in self.source.nodes:
            op = node.op
            if isinstance(op, Return):
                self.graph.set_outputs([self._returned(value, builder) for value in node.inputs])
            elif isinstance(op, (Const, Quantize, *STORED)) or not any(
                value.type.quant for value in (*node.inputs, *node.outputs)
            ):
                operands = [self.stored.get(value) or self.real[value] for value in node.inputs]
                new = builder.emit_node(op, operands, name=node.outputs[0].name)
                self.stored.update(zip(node.outputs, new.outputs, strict=True))
            elif isinstance(op, Dequantize):
                self.real[node.output] = self.stored[node.output] = self._real(
                    node.inputs[0], builder
                )
            elif isinstance(op, Requantize):
                real = self._real(node.inputs[0], builder)
                self._round(node.output, self._clamped(op, real, builder), builder)
            else:
                count = len(node.inputs)
                if isinstance(op.quant, FixedCode):
                    count -= 1  # the table of exponentials
                operands = [
                    self._real(value, builder) if value.type.quant else self.stored[value]
                    for value in node.inputs[:count]
                ]
                new = builder.emit_node(in_float(op), operands)
                for old, result in zip(node.outputs, new.outputs, strict=True):
                    self._round(old, result, builder)
        return self.graph

    def _clamped(self, op: Requantize, real: Value, builder: Builder) -> Value:
        if op.clamp is None:
            return real
        if not op.to.per_tensor:
            raise QirError("qdq: a clamp of codes that vary has no float form")
        low, high = (float(op.to.decode(bound)) for bound in op.clamp)
        return builder.emit(Clip(low, high), real)

    def _round(self, old: Value, real: Value, builder: Builder) -> None:
        code = old.type.quant
        if code is None:
            self.stored[old] = real
        elif code.storage.bits > 16:
            self.real[old] = real
        else:
            rounding = self.rounding if isinstance(code, Affine) else "reciprocal"
            self.stored[old] = builder.emit(Quantize(code, rounding), real, name=old.name)

    def _real(self, value: Value, builder: Builder) -> Value:
        if value not in self.real:
            self.real[value] = builder.emit(Dequantize(), self.stored[value])
        return self.real[value]

    def _returned(self, value: Value, builder: Builder) -> Value:
        return self.stored[value] if value in self.stored else self._real(value, builder)
