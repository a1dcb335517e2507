"""Programs cut into pieces that run one behind the other, so that what they compute is seen."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np

from qir.ir import Graph, Node, Value
from qir.ir.signature import Sizes, named_dimensions
from qir.ops import Const, Return
from qir.ops.regions import RegionOp
from qir.pipeline import Executor
from qir.types import Dim, DType, TensorType

SEGMENT_BYTES = 2**25
"""Size of the observed values at which a segment ends. The host takes 25 ms to count as many."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive nodes of a program, compiled.

    Args:
        inputs: The values from before that the nodes read or that are read behind them; of a whole
            program its inputs too, which tell the sizes of named dimensions.
        outputs: Those of their values that are kept or read behind them.
        compute: Maps inputs to outputs.
        told: Named dimensions of which the inputs do not tell the sizes; `compute` takes for each a
            further array of that size.
    """

    inputs: Sequence[Value]
    outputs: Sequence[Value]
    compute: Callable[..., list[Any]]
    told: Sequence[Dim] = ()

    def run(self, operands: Sequence[Any], sizes: Sizes) -> list[Any]:
        """Computes the outputs, which may not be there yet.

        Args:
            operands: An array for each input.
            sizes: The sizes of named dimensions.
        """
        further = [np.zeros(sizes.size(size), np.bool_) for size in self.told]
        return self.compute(*operands, *further)


@dataclass(frozen=True, eq=False)
class Driven:
    """A node with regions, which the host runs.

    Args:
        inputs: As those of a segment.
        outputs: Its results that are kept or read behind it.
        node: The node.
        op: Its op.
        bodies: Its regions.
    """

    inputs: Sequence[Value]
    outputs: Sequence[Value]
    node: Node
    op: RegionOp
    bodies: Sequence[RegionPieces]


@dataclass(frozen=True, eq=False)
class RegionPieces:
    """A region cut into pieces.

    Args:
        region: The region.
        pieces: Its pieces in order.
    """

    region: Graph
    pieces: Sequence[Piece]


Piece: TypeAlias = Segment | Driven


def cut(graph: Graph, kept: Container[Value], sizes: Sizes, executor: Executor) -> list[Piece]:
    """Cuts a program; nodes with regions are pieces of their own.

    Args:
        graph: The program.
        kept: The values that are looked at.
        sizes: The sizes of named dimensions, which tell where segments end.
        executor: Compiles segments.
    """
    return _Cutter(graph, kept, sizes, executor).pieces(graph)


class _Cutter:
    def __init__(
        self, program: Graph, kept: Container[Value], sizes: Sizes, executor: Executor
    ) -> None:
        self.program = program
        self.kept = kept
        self.sizes = sizes
        self.executor = executor
        named = (size for value in program.inputs for size in value.type.shape)
        self.named = list(dict.fromkeys(size for size in named if isinstance(size, Dim)))

    def pieces(self, graph: Graph) -> list[Piece]:
        is_program = graph is self.program
        found: list[Piece] = []
        # From the last to the first, each hands on what those behind it read.
        read = dict.fromkeys(graph.inputs if is_program else graph.outputs)
        for nodes in reversed(self._parts(graph)):
            made = dict.fromkeys(value for node in nodes for value in node.outputs)
            outputs = [value for value in made if value in self.kept or value in read]
            read |= dict.fromkeys(value for node in nodes for value in node.inputs)
            inputs = [value for value in read if value not in made and not value.is_constant]
            read = dict.fromkeys(inputs)
            (first, *_) = nodes or (None,)
            if first is not None and isinstance(first.op, RegionOp):
                bodies = [RegionPieces(region, self.pieces(region)) for region in first.regions]
                found.append(Driven(inputs, outputs, first, first.op, bodies))
            elif outputs or is_program:
                found.append(self._segment(graph, inputs, outputs))
        return found[::-1]

    def _parts(self, graph: Graph) -> list[list[Node]]:
        parts: list[list[Node]] = [[]]
        size = 0
        for node in graph.nodes:
            if isinstance(node.op, Const | Return):
                continue
            if node.regions:
                parts += [[node], []]
                size = 0
                continue
            if size >= SEGMENT_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(node)
            size += sum(
                prod(self.sizes.shape(value.type.shape)) * value.type.dtype.numpy.itemsize
                for value in node.outputs
                if value in self.kept
            )
        return [nodes for nodes in parts if nodes] or [[]]

    def _segment(self, graph: Graph, inputs: list[Value], outputs: list[Value]) -> Segment:
        part = graph.extract(inputs, outputs)
        told = self.named if _is_untold(part) else []
        for size in told:
            part.add_input("size", TensorType((size,), DType.BOOL))
        return Segment(inputs, outputs, self.executor.probe(part, part.outputs), told)


def _is_untold(part: Graph) -> bool:
    """Whether a part of a program has dimensions whose sizes its inputs do not tell."""
    told = set(named_dimensions(part.inputs))
    return not told.issuperset(named_dimensions(list(part.values())))
