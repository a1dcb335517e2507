"""`qir 1`, the text of release 0.1.0, read as what its lines mean today: the same integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qir.errors import QirError
from qir.ir import Graph, Node, Value, node_types
from qir.ops.cast import is_long
from qir.ops.conv import Conv, ConvTranspose
from qir.ops.dot import Dot
from qir.ops.elementwise import Mul
from qir.ops.op import Op, find_op, from_attributes, infer
from qir.ops.pool import AvgPool
from qir.ops.recode import Cast
from qir.ops.reduce import Mean, ReduceSum
from qir.ops.resize import ResizeLinear
from qir.ops.sums import rounded
from qir.ops.type_rules import are_bytes, rescaled
from qir.text.reader import GraphReader, check_written
from qir.text.syntax import GraphSyntax, NodeSyntax, TypeSyntax
from qir.types import Affine, Codebook, DType, TensorType
from qir.types.codes.level_code import MOST_STEP

_ROUNDED_THEMSELVES = (Mul, ReduceSum, Mean, AvgPool, ResizeLinear)
"""Ops that rounded their sums to a code of their own, in mode fixed31."""

_WRAPPED_AT_8_BITS = (Dot, Conv, ConvTranspose)
"""Ops that gave sums of plain 8-bit integers in the type of these, and of 16-bit codes in i64."""


class Version1Reader(GraphReader):
    """Reads a line whose op means something else today as two nodes: the op, and what follows it.

    The second one has the name of the line's result, the first one a name that no line has.
    """

    def build(self, syntax: GraphSyntax) -> Graph:
        """Returns the graph; raises ParseError with the line that breaks a rule."""
        self.taken = {param.name for param in syntax.params}
        self.taken.update(name for line in syntax.nodes for name in line.results)
        return super().build(syntax)

    def coded_type(self, syntax: TypeSyntax, written: tuple[tuple[str, Any], ...]) -> TensorType:
        """Reads a type with a code; one with levels was affine, with a zero point among them."""
        given = dict(written)
        if "levels" in given and "kind" not in given:
            levels, point = (
                np.asarray(self.given(given.get(name, 0))) for name in ("levels", "zp")
            )
            if point.ndim:
                raise QirError("code: expected one zero point beside levels, got several")
            if any(numbers.dtype.kind not in "iu" for numbers in (levels, point)):
                raise QirError("code: expected integer levels and an integer zero point")
            folded = levels.astype(np.int64) - int(point)
            if np.any(np.abs(folded) > MOST_STEP):
                folded = folded.astype(np.float32)
            rest = {name: value for name, value in given.items() if name != "zp"}
            rest |= {"kind": Codebook.kind, "levels": folded}
            written = tuple(rest.items())
        return super().coded_type(syntax, written)

    def insert(
        self,
        graph: Graph,
        line: NodeSyntax,
        operands: Sequence[Value],
        types: Sequence[TensorType],
        regions: Sequence[Graph],
    ) -> Node:
        """Appends what a line said; see the base class."""
        cls, inputs = find_op(line.op), [value.type for value in operands]
        if (
            issubclass(cls, _ROUNDED_THEMSELVES)
            and inputs
            and (isinstance(code := types[0].quant, Affine))
        ):
            # A pool reads its code off the type, and an exact sum has none of its own.
            plain = TensorType(types[0].shape, DType.F32)
            op = from_attributes(cls, self.attributes(line), [plain])
            if not _has_varying_divisors(op, inputs[0]):
                infer(op, inputs)
                rescaled(op, code, *inputs)
                follow: Op = rounded(op, inputs, code)
                return self._in_two(graph, line, op, operands, follow, types, regions)
        if issubclass(cls, _WRAPPED_AT_8_BITS) and len(inputs) >= 2 and are_bytes(*inputs):
            op = from_attributes(cls, self.attributes(line), types)
            wide = [self._widened(graph, value, line) for value in operands[2:]]
            # Sums in i32 and in 8 bits are the same modulo 2^8.
            follow = Cast(inputs[0].dtype)
            operands = (*operands[:2], *wide)
            return self._in_two(graph, line, op, operands, follow, types, regions)
        if issubclass(cls, _WRAPPED_AT_8_BITS) and is_long(types[0]) and len(inputs) == 2:
            # Sums that i32 holds are in i32.
            types = infer(from_attributes(cls, self.attributes(line), types), inputs)
        return super().insert(graph, line, operands, types, regions)

    def _in_two(
        self,
        graph: Graph,
        line: NodeSyntax,
        op: Op,
        operands: Sequence[Value],
        follow: Op,
        types: Sequence[TensorType],
        regions: Sequence[Graph],
    ) -> Node:
        """Appends an op and another one that takes its result; returns the second."""
        sums = node_types(op, [value.type for value in operands], regions)
        check_written(op, line, types, infer(follow, sums))
        first = Node(graph, op, operands, sums, loc=line.loc)
        graph.insert(first, name=self._free(f"{line.results[0]}.acc"))
        given = line.types[0].origin
        first.output.origins = dict(given) if given else dict.fromkeys(line.results)
        return graph.insert(
            Node(graph, follow, [first.output], types, loc=line.loc), name=line.results
        )

    def _widened(self, graph: Graph, bias: Value, line: NodeSyntax) -> Value:
        op = Cast(DType.I32)
        node = Node(graph, op, [bias], infer(op, [bias.type]), loc=line.loc)
        return graph.insert(node, name=self._free(f"{bias.name}.wide")).output

    def _free(self, name: str) -> str:
        """Returns a name that no line of the text has."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _has_varying_divisors(op: Op, x: TensorType) -> bool:
    """Whether an op is an average pool whose padding does not count, which rounds by itself."""
    if not isinstance(op, AvgPool):
        return False
    op.pooled_shape(x)  # which says what is wrong with windows that don't fit
    return op.divisor([x]) is None
