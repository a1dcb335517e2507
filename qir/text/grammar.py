"""From text to a syntax tree, by the grammar alone."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, cast

from lark import (
    Lark,
    Token,
    Transformer,
    UnexpectedCharacters,
    UnexpectedInput,
    UnexpectedToken,
    v_args,
)
from lark.exceptions import UnexpectedEOF

from qir.errors import ParseError, QirError
from qir.text.syntax import (
    VERSION,
    VERSIONS,
    DataEntry,
    GraphSyntax,
    NodeSyntax,
    ParamSyntax,
    ProgramSyntax,
    Reference,
    Scales,
    Source,
    TypeSyntax,
    show_line,
)
from qir.types import Dim, Shape, Size, product

_MOST_DIGITS = 100
"""Digits of an integer in a text at the most."""

_MOST_AXES = 32
"""Levels of lists in a text at the most: numpy has arrays of as many axes in every version."""

_MOST_SHOWN = 40
"""Characters of a number or dimension that a message shows."""


class _Misfit(Exception):
    """A token that the grammar accepts and that means nothing."""

    def __init__(self, message: str, token: Token) -> None:
        super().__init__(message)
        self.message, self.token = message, token


class _Nested(list[Any]):
    """A list in a text, and how many levels of lists it has."""

    depth = 1


class _ToSyntax(Transformer[Token, Any]):
    def NUMBER(self, token: Token) -> float:
        return float(token)

    def INT(self, token: Token) -> int:
        # Python reads 4,300 digits at most.
        if len(token) > _MOST_DIGITS:
            found = _shortened(token)
            raise _Misfit(f"parse: expected at most {_MOST_DIGITS} digits, got {found}", token)
        return int(token)

    def STRING(self, token: Token) -> str:
        try:
            return str(json.loads(token, strict=False))
        except ValueError as error:
            raise _Misfit("parse: expected a text quoted as in JSON", token) from error

    def SYMBOL(self, token: Token) -> Reference:
        return Reference(token[1:])

    @v_args(inline=True)
    def array(self, opening: Token, *items: Any) -> list[Any]:
        found = _Nested(_plain(item) for item in items if item is not None)
        found.depth = 1 + max(
            (item.depth for item in items if isinstance(item, _Nested)), default=0
        )
        if found.depth > _MOST_AXES:
            raise _Misfit(f"parse: expected lists of at most {_MOST_AXES} levels", opening)
        return found

    @v_args(inline=True)
    def attr(self, name: Token, value: Any) -> tuple[str, Any]:
        return str(name), _plain(value)

    code = attr

    @v_args(inline=True)
    def scales(self, *factors: Any) -> Scales:
        return Scales(
            tuple(factor[1:] if isinstance(factor, Token) else factor for factor in factors)
        )

    def attrs(self, items: list[Any]) -> tuple[tuple[str, Any], ...]:
        return tuple(item for item in items if item is not None)

    @v_args(inline=True)
    def type(self, tensor: Token, *code: Any) -> TypeSyntax:
        dtype, shape = self.tensor(tensor)
        return TypeSyntax(dtype, shape, tuple(part for part in code if part is not None) or None)

    def tensor(self, token: Token) -> tuple[str, Shape]:
        try:
            return _tensor(str(token))
        except QirError as error:
            raise _Misfit(error.message, token) from error

    @v_args(inline=True)
    def typed(self, type: TypeSyntax, *facts: Any) -> TypeSyntax:
        if all(fact is None for fact in facts):
            return type
        return TypeSyntax(type.dtype, type.shape, type.code, *facts)

    @v_args(inline=True)
    def range(self, low: float, high: float) -> tuple[float, float]:
        return float(low), float(high)

    seen = range

    def origin(self, sources: list[Source | None]) -> tuple[Source, ...]:
        return tuple(source for source in sources if source is not None)

    @v_args(inline=True)
    def source(self, name: str, order: tuple[int, ...] | None) -> Source:
        return name, order

    def order(self, axes: list[int | None]) -> tuple[int, ...]:
        return tuple(axis for axis in axes if axis is not None)

    @v_args(inline=True)
    def loc(self, text: str) -> str:
        return text

    note = loc

    @v_args(inline=True)
    def param(self, name: Token, type: TypeSyntax) -> ParamSyntax:
        return ParamSyntax(name[1:], type, name.line or 0)

    def results(self, names: list[Token]) -> list[Token]:
        return names

    def call(self, parts: list[Any]) -> dict[str, Any]:
        return {
            "op": str(parts[0]),
            "operands": tuple(part[1:] for part in parts[1:] if isinstance(part, Token)),
            "attributes": next((part for part in parts[1:] if isinstance(part, tuple)), ()),
            "regions": tuple(part for part in parts[1:] if isinstance(part, GraphSyntax)),
        }

    @v_args(inline=True)
    def const(self, literal: Any, attributes: Any = None) -> dict[str, Any]:
        return {
            "op": "const",
            "operands": (),
            "attributes": attributes or (),
            "regions": (),
            "literal": _plain(literal),
        }

    def node(self, parts: list[Any]) -> NodeSyntax:
        results, call, *types, loc, note = parts
        names, line = tuple(name[1:] for name in results), results[0].line or 0
        return NodeSyntax(names, types=tuple(types), loc=loc, note=note, line=line, **call)

    def body(self, parts: list[Any]) -> tuple[tuple[NodeSyntax, ...], tuple[str, ...], int]:
        *nodes, (returns, line) = parts
        return tuple(nodes), returns, line

    def returns(self, parts: list[Any]) -> tuple[tuple[str, ...], int]:
        keyword, *names = parts
        return tuple(name[1:] for name in names if name is not None), keyword.line

    def region(self, parts: list[Any]) -> GraphSyntax:
        *params, (nodes, returns, line) = parts
        return GraphSyntax(
            "", tuple(param for param in params if param is not None), nodes, returns, line
        )

    def graph(self, parts: list[Any]) -> GraphSyntax:
        name, *params, (nodes, returns, line) = parts
        return GraphSyntax(
            name.name, tuple(param for param in params if param is not None), nodes, returns, line
        )

    @v_args(inline=True)
    def entry(self, name: Reference, tensor: Token, form: Token | None, digest: str) -> DataEntry:
        return DataEntry(name.name, *self.tensor(tensor), digest, str(form or ""))

    def data(self, entries: list[DataEntry]) -> tuple[DataEntry, ...]:
        return tuple(entries)

    def HEADER(self, token: Token) -> int:
        # Called before the text behind it is looked at, which of another version may not fit.
        written = token.split()[1].lstrip("0") or "0"
        if written not in map(str, VERSIONS):
            known = " or ".join(map(str, VERSIONS))
            found = _shortened(written)
            raise _Misfit(f"parse: expected a text of version {known}, got {found}", token)
        return int(written)

    @v_args(inline=True)
    def header(self, version: int) -> int:
        return version

    def program(self, parts: list[Any]) -> tuple[Any, ...]:
        return tuple(parts)


@cache
def _tensor(text: str) -> tuple[str, Shape]:
    dtype, _, dims = text[:-1].partition("[")
    return dtype, tuple(_dim(dim) for dim in dims.split(",")) if dims.strip() else ()


def _dim(text: str) -> Size:
    parts = [part.strip() for part in text.split("*")]
    try:
        return product([_size(part) if part.isdecimal() else Dim.named(part) for part in parts])
    except QirError:
        shown = _shortened(text.strip())
        raise QirError(
            f"dimension: expected an integer times names, as in 128*B, got '{shown}'"
        ) from None


def _size(text: str) -> int:
    size = int(text) if len(text) <= _MOST_DIGITS else 2**63
    if size >= 2**63:
        raise QirError(f"dimension: expected a size of 64 bits, got {_shortened(text)}")
    return size


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Token) else value


@cache
def _lark() -> Lark:
    grammar = resources.files("qir.text").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(
        grammar,
        start="program",
        parser="lalr",
        transformer=_ToSyntax(),
        maybe_placeholders=True,
    )


def read_syntax(text: str) -> ProgramSyntax:
    """Parses a text; see `qir.text.parse_syntax`."""
    lines = tuple(text.splitlines())
    try:
        version, graph, data = cast(tuple[Any, Any, Any], _lark().parse(text))
    except UnexpectedEOF as error:
        raise ParseError(
            "parse: expected more text, got the end", show_line(lines, len(lines))
        ) from error
    except UnexpectedToken as error:
        if error.token.type == "$END":
            raise ParseError(
                "parse: expected more text, got the end", show_line(lines, len(lines))
            ) from error
        wanted = _names(error.accepts or error.expected)
        raise ParseError(
            f"parse: expected {wanted}, got '{error.token}'",
            show_line(lines, error.line, error.column),
        ) from error
    except UnexpectedCharacters as error:
        raise ParseError(
            f"parse: expected {_names(error.allowed)}, got '{error.char}'",
            show_line(lines, error.line, error.column),
        ) from error
    except _Misfit as error:
        place = show_line(lines, error.token.line or 0, error.token.column)
        raise ParseError(error.message, place) from error
    except UnexpectedInput as error:
        raise ParseError(
            "parse: not a QIR program", show_line(lines, error.line, error.column)
        ) from error
    return ProgramSyntax(version, graph, data or (), lines)


_TERMINALS = {
    "HEADER": f"'qir {VERSION}'",
    "VALUE": "a %value",
    "SYMBOL": "a @name",
    "NAME": "a name",
    "INT": "an integer",
    "NUMBER": "a number",
    "STRING": "a quoted text",
    "TENSOR": "a type such as f32[...]",
    "LPAR": "'('",
    "RPAR": "')'",
    "LBRACE": "'{'",
    "RBRACE": "'}'",
    "LSQB": "'['",
    "RSQB": "']'",
    "EQUAL": "'='",
    "COLON": "':'",
    "COMMA": "','",
    "STAR": "'*'",
    "$END": "the end",
}


def _names(terminals: Any) -> str:
    return (
        " or ".join(sorted(_TERMINALS.get(name, f"'{name.lower()}'") for name in terminals or ()))
        or "something else"
    )
