"""An op together with the neighbours that XLA can fuse it with: what is measured as one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from qir.backends.xla.codes import signed_zero_points
from qir.backends.xla.lowering import legal_ways
from qir.ir import Graph, Node, Value
from qir.ops import Const, Lookup, Requantize
from qir.ops.elementwise import Sum
from qir.ops.op import Op
from qir.report.summary import count
from qir.text.printer import format_attribute
from qir.types import Affine, FrozenArray


@dataclass(frozen=True, eq=False)
class Fusion:
    """A chain of ops, each but the last read by the next one alone.

    Attributes:
        nodes: The chain: an op, and the requantize and lookup that follow it.
        target: The op in it whose ways are compared.
    """

    nodes: tuple[Node, ...]
    target: Node

    @staticmethod
    def around(node: Node) -> Fusion:
        """Returns the cluster of a node: it begins with what a requantize alone reads."""
        first = node
        if isinstance(node.op, Requantize):
            source = node.inputs[0]
            if source.node is not None and len(source.node.outputs) == 1 and _follower(source):
                first = source.node if not isinstance(source.op, Const) else node
        nodes = [first]
        while len(nodes[-1].outputs) == 1 and (follower := _follower(nodes[-1].output)):
            nodes.append(follower)
        return Fusion(tuple(nodes), node)

    @property
    def key(self) -> str:
        """What its speed depends on: ops, types without the numbers of their codes, legal ways.

        Named dimensions count as 1.
        """
        results = {value for node in self.nodes for value in node.outputs}
        chain = []
        for node in self.nodes:
            operands = [_type(value) for value in node.inputs if value not in results]
            outputs = ", ".join(map(_type, node.outputs))
            mark = "*" if node is self.target else ""
            chain.append(f"{mark}{_op(node)}({', '.join(operands)}) -> {outputs}")
        if self.target.regions:
            return f"{'; '.join(chain)} with {_inside(self.target)}"
        ways = ", ".join(sorted(way.name for way in legal_ways(self.target)))
        return f"{'; '.join(chain)} by {ways}"

    def graph(self) -> Graph:
        """Returns it as a program of its own; the values keep their names."""
        results = {value for node in self.nodes for value in node.outputs}
        operands = [value for node in self.nodes for value in node.inputs]
        inputs = dict.fromkeys(
            value for value in operands if value not in results and not value.is_constant
        )
        return self.nodes[0].graph.extract(list(inputs), self.nodes[-1].outputs)


def _inside(node: Node) -> str:
    """Returns a digest of what is computed in the regions of a node."""
    digest = hashlib.sha256()
    for region in node.regions:
        for each in region.walk():
            operands = ", ".join(map(_type, each.inputs))
            digest.update(f"{_op(each)}({operands});".encode())
    return digest.hexdigest()[:16]


def _follower(value: Value) -> Node | None:
    """Returns the requantize or lookup that alone reads a value."""
    readers = value.users
    if len(readers) != 1 or not isinstance(readers[0].op, Requantize | Lookup):
        return None
    return readers[0] if readers[0].inputs.index(value) == 0 else None


def _op(node: Node) -> str:
    attributes = [f"{name}={_attribute(value)}" for name, value in _structure(node.op).items()]
    if isinstance(node.op, Requantize) and node.op.rounding == "fixed31":
        # Shifts of less than 33 need the low word of the product too.
        short = bool(np.all(node.op.factors(node.inputs[0].type).shift >= 33))
        attributes.append("short" if short else "long")
    return " ".join([node.op.name, *attributes])


def _structure(op: Op) -> dict[str, object]:
    """Returns the attributes that are more than numbers to compute with."""
    numbers = {"clamp", "multiplier", "multipliers", "shift", "agrees"}
    summed = isinstance(op, Requantize | Sum)
    return {
        name: value for name, value in op.attributes().items() if not (summed and name in numbers)
    }


def _attribute(value: object) -> str:
    if isinstance(value, FrozenArray):
        return str(list(value.array.shape))
    return format_attribute(value)


def _type(value: Value) -> str:
    sizes = ",".join(str(count(size, {})) for size in value.type.shape)
    text = f"{'const ' if value.is_constant else ''}{value.type.dtype.value}[{sizes}]"
    code = value.type.quant
    if code is None:
        return text
    blocks = "x".join(map(str, code.decoding_scale.shape))
    marks = [] if code.per_tensor else [f"scale={blocks}"]
    if np.any(signed_zero_points(value.type)):
        marks.append("zp")
    if not isinstance(code, Affine):
        marks.append(code.kind)
    if code.multipliers is not None:
        marks.append(f"multipliers={list(code.multipliers.array.shape)}")
    return f"{text}{{{', '.join(marks)}}}"
