"""Which model statistics are of, told by what is cheap to look at."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from qir.ir import Graph, Value
from qir.ops import Const
from qir.types import format_shape

_SAMPLE = 64
"""Numbers of each constant that are looked at, evenly spaced: all of them would take as long as
reading the weights once more."""


@dataclass(frozen=True)
class Fingerprint:
    """What tells a float program from another one.

    Args:
        interface: Digest of the names and shapes of inputs and the shapes of outputs, which passes
            keep.
        structure: Digest of the ops, what they read, and the imported values that theirs stand for.
        numbers: Digest of attributes and types, and of some numbers of each constant.
    """

    interface: str
    structure: str
    numbers: str

    @staticmethod
    def of(graph: Graph, by_data: Container[Value] = ()) -> Fingerprint:
        """Returns that of a program; a millisecond for a hundred ops.

        Args:
            graph: The program.
            by_data: Results of ops whose attributes data decided, which are not looked at.
        """
        interface = [f"{value.name}{format_shape(value.type.shape)}" for value in graph.inputs]
        interface += [f" {format_shape(value.type.shape)}" for value in graph.outputs]
        places: dict[Value, int] = {}
        structure: list[str] = []
        numbers: list[str | bytes] = []
        stand_for_themselves = not any(value.origin for value in graph.values_inside())

        def note(values: Iterable[Value]) -> None:
            for value in values:
                places[value] = len(places)
                names = (value.name,) if stand_for_themselves else value.origin
                # Text has no origin of constants, which have no statistics.
                structure.append("" if value.is_constant else repr(names))
                numbers.append(str(value.type))

        note(graph.inputs)
        for node in graph.walk():
            if node.op.name != "const" and not any(value in by_data for value in node.outputs):
                numbers.append(repr(node.op))
            structure.append(node.op.name)
            structure.append(repr([places.get(value, -1) for value in node.inputs]))
            note(node.outputs)
            for region in node.regions:
                note(region.inputs)
            if isinstance(node.op, Const):
                flat = node.op.array.array.reshape(-1)
                step = max(flat.size // _SAMPLE, 1)
                numbers.append(np.ascontiguousarray(flat[::step]).tobytes())
        return Fingerprint(_digest(interface), _digest(structure), _digest(numbers))

    def difference(self, graph: Graph) -> str:
        """Says how a program differs from that of the fingerprint; empty where it may be it.

        A program that passes have changed has another structure: it may be it where it has the same
        inputs and outputs.
        """
        other = Fingerprint.of(graph)
        if other.interface != self.interface:
            return "it has other inputs or outputs"
        if other.structure == self.structure and other.numbers != self.numbers:
            return "it has the same ops and other weights or attributes"
        return ""


def _digest(parts: Iterable[str | bytes]) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()
