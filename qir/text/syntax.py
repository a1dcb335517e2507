"""The syntax tree of a program: what the grammar yields before names and types are resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from qir.types import Shape

VERSION = 2
"""The version of the text that is written."""

VERSIONS = (1, VERSION)
"""The versions that are read: 1 is that of release 0.1.0."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An array beside the text: `@name`."""

    name: str

    def __str__(self) -> str:
        return f"@{self.name}"


@dataclass(frozen=True, slots=True)
class Scales:
    """A scale written as a product of the scales of other values, by their names, or of arrays."""

    factors: tuple[str | Reference | list[Any], ...]

    def __str__(self) -> str:
        return "*".join(
            f"%{factor}" if isinstance(factor, str) else str(factor) for factor in self.factors
        )


Source: TypeAlias = tuple[str, tuple[int, ...] | None]
"""The name of an imported value, and the order of the axes in terms of its own, or None."""


@dataclass(frozen=True, slots=True)
class TypeSyntax:
    """`storage[shape]{code}` with the facts that may follow it."""

    dtype: str
    shape: Shape
    code: tuple[tuple[str, Any], ...] | None
    observed: tuple[float, float] | None = None
    range: tuple[float, float] | None = None
    origin: tuple[Source, ...] | None = None


@dataclass(frozen=True, slots=True)
class ParamSyntax:
    """An input of a graph or region."""

    name: str
    type: TypeSyntax
    line: int


@dataclass(frozen=True, slots=True)
class NodeSyntax:
    """One line: `%a, %b = op(%x) {attributes} with (…) {…} : types`.

    The literal of a constant is what stands behind `const`; None where the array beside the text
    has the name of the value.
    """

    results: tuple[str, ...]
    op: str
    operands: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]
    regions: tuple[GraphSyntax, ...]
    types: tuple[TypeSyntax, ...]
    loc: str | None
    note: str | None
    line: int
    literal: Any = None


@dataclass(frozen=True, slots=True)
class GraphSyntax:
    """A graph or region; the name of a region is empty."""

    name: str
    params: tuple[ParamSyntax, ...]
    nodes: tuple[NodeSyntax, ...]
    returns: tuple[str, ...]
    return_line: int


@dataclass(frozen=True, slots=True)
class DataEntry:
    """An array that lies beside the text: its name, type and digest, and the form of its bytes."""

    name: str
    dtype: str
    shape: Shape
    digest: str
    form: str = ""


@dataclass(frozen=True, slots=True)
class ProgramSyntax:
    """A whole text."""

    version: int | None
    graph: GraphSyntax
    data: tuple[DataEntry, ...]
    lines: tuple[str, ...]


def show_line(lines: tuple[str, ...], line: int, column: int | None = None) -> list[str]:
    """Returns the places of an error: the line's number, its text and a caret under the column."""
    if not 1 <= line <= len(lines):
        return ["at the end of the text"]
    places = [f"at line {line}" + (f", column {column}" if column else ""), f"|{lines[line - 1]}"]
    return [*places, "|" + " " * (column - 1) + "^"] if column else places
