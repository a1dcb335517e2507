"""Text to graphs, in every version of the text that is read."""

from __future__ import annotations

from collections.abc import Mapping

from qir.errors import ParseError, did_you_mean
from qir.ir import Graph
from qir.text.reader import GraphReader, element_type
from qir.text.syntax import VERSION, ProgramSyntax
from qir.text.version1 import Version1Reader
from qir.types import Array, FrozenArray, format_shape

_READERS = {1: Version1Reader, VERSION: GraphReader}


def parse(text: str, arrays: Mapping[str, Array] | None = None) -> Graph:
    """Reads a program.

    Args:
        text: The text of any version that is read; one without a header is of the newest.
        arrays: The arrays that the text refers to by @name.

    Returns:
        A verified graph: every type is the one that the op's rule infers.

    Raises:
        ParseError: The text is not a program, or a line breaks a rule; the message shows the line.
    """
    frozen = {name: FrozenArray.by_reference(array) for name, array in (arrays or {}).items()}
    return build(parse_syntax(text), frozen)


def parse_syntax(text: str) -> ProgramSyntax:
    """Parses a text by the grammar alone.

    Raises:
        ParseError: The text does not fit; the message shows the line with a caret.
    """
    # Quantizing reads no text and need not load what that takes.
    from qir.text.grammar import read_syntax

    return read_syntax(text)


def build(program: ProgramSyntax, arrays: Mapping[str, FrozenArray]) -> Graph:
    """Builds the graph of a syntax tree; see `parse`."""
    for entry in program.data:
        if entry.name not in arrays:
            raise ParseError(f"parse: no array @{entry.name}{did_you_mean(entry.name, arrays)}")
        array = arrays[entry.name].array
        if tuple(array.shape) != entry.shape or array.dtype != element_type(entry.dtype).numpy:
            raise ParseError(
                f"parse: expected @{entry.name} to be {entry.dtype}{format_shape(entry.shape)}, "
                f"got {array.dtype}{format_shape(array.shape)}"
            )
        if arrays[entry.name].digest != entry.digest:
            raise ParseError(
                f"parse: the array @{entry.name} is not the one that the text was written with"
            )
    return _READERS[program.version or VERSION](program.lines, arrays).build(program.graph)
