"""Pipelines as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args

from qir.errors import ParseError, PassError, did_you_mean
from qir.ir import Graph
from qir.pipeline.context import Context
from qir.pipeline.registry import PASSES, PIPELINES, Pass, make_pass
from qir.pipeline.rewrite import Exactness


@dataclass(frozen=True, repr=False)
class Repeat(Pass):
    """`repeat(a, b)`: runs passes until they change nothing."""

    steps: tuple[Pass, ...]

    name = "repeat"

    def __post_init__(self) -> None:
        """The steps are passes already; there are no options to check."""

    def run(self, graph: Graph, context: Context) -> None:
        """Raises PassError: the pass manager runs the steps."""
        raise PassError("repeat: is run by the pass manager")

    def __str__(self) -> str:
        return f"repeat({', '.join(map(str, self.steps))})"


@dataclass(frozen=True)
class Pipeline:
    """A list of passes that parses from text and prints back.

    Args:
        steps: The passes in order.
        allow: The least exactness that rewrites may have.
    """

    steps: tuple[Pass, ...]
    allow: Exactness = "exact"

    @staticmethod
    def parse(text: str) -> Pipeline:
        """Reads `name, name(option=value, …), repeat(…), …`.

        Named pipelines expand; `allow(within_1lsb)` is kept.

        Raises:
            ParseError: A pass or option does not exist or does not fit; the message points at it.
        """
        if not isinstance(text, str):
            raise ParseError(
                f"pipeline: expected passes as text, as 'fold, calibrate', or a Pipeline, got "
                f"{text!r}"
            )
        allow: list[Exactness] = []
        text = text.replace("\n", " ")  # so that a column is a place in the text
        steps = tuple(_build(*item, allow) for item in _expand(_parse_items(text), text))
        return Pipeline(
            tuple(step for step in steps if step is not None), allow[-1] if allow else "exact"
        )

    def __str__(self) -> str:
        prefix = [] if self.allow == "exact" else [f"allow({self.allow})"]
        return ", ".join([*prefix, *map(str, self.steps)])


_GRAMMAR = r"""
pipeline : [item ("," item)*]
item     : NAME ["(" [argument ("," argument)*] ")"]
argument : NAME "=" literal -> option
         | item
?literal : NUMBER | INT | NAME | STRING | array
array    : "[" [literal ("," literal)*] "]"
NUMBER.2 : /-?(inf(?!\w)|\d+\.\d*([eE][+-]?\d+)?|\d+[eE][+-]?\d+)/
INT.1    : /-?\d+/
NAME     : /([^\W\d]|[*?%])[\w\-*?.\/:]*/
STRING   : /"(\\.|[^"\\])*"/
%ignore /\s+/
"""


@dataclass(frozen=True)
class _Item:
    name: str
    column: int
    options: tuple[tuple[str, Any], ...]
    items: tuple[_Item, ...]
    called: bool


class _ToItems(Transformer[Token, Any]):
    NUMBER = staticmethod(float)
    INT = staticmethod(int)

    def STRING(self, token: Token) -> str:
        try:
            return str(json.loads(token, strict=False))
        except ValueError as error:
            places = _point(token, 1)
            raise ParseError("pipeline: expected a text quoted as in JSON", places) from error

    def array(self, items: list[Any]) -> list[Any]:
        return [
            str(item) if isinstance(item, Token) else item for item in items if item is not None
        ]

    @v_args(inline=True)
    def option(self, name: Token, value: Any) -> tuple[str, Any]:
        return str(name), str(value) if isinstance(value, Token) else value

    @v_args(inline=True)
    def argument(self, item: _Item) -> _Item:
        return item

    def item(self, parts: list[Any]) -> _Item:
        name, *arguments = parts
        options = tuple(part for part in arguments if isinstance(part, tuple))
        items = tuple(part for part in arguments if isinstance(part, _Item))
        return _Item(str(name), name.column or 1, options, items, bool(options or items))

    def pipeline(self, items: list[Any]) -> list[_Item]:
        return [item for item in items if item is not None]


@cache
def _lark() -> Lark:
    return Lark(
        _GRAMMAR, start="pipeline", parser="lalr", transformer=_ToItems(), maybe_placeholders=True
    )


def _parse_items(text: str) -> list[_Item]:
    try:
        items = cast(list[_Item], _lark().parse(text))
    except (UnexpectedToken, UnexpectedCharacters) as error:
        if isinstance(error, UnexpectedToken) and error.token.type == "$END":
            message, column = "pipeline: expected more text, got the end", len(text) + 1
        else:
            message, column = "pipeline: expected passes separated by commas", error.column
            message += _hint_to_quote(text, column)
        raise ParseError(message, _point(text, column)) from error
    return items


def _hint_to_quote(text: str, column: int) -> str:
    """Returns how to write the selector at a place that has characters of no name in it."""
    opened = re.search(r"=\s*(\[(?:[^\[\]]*,)?\s*)?([^,=\[\]]*)$", text[: column - 1])
    if opened is None:
        return ""
    balanced = r"(?:\[[^\[\]]*\]|\([^()]*\)|[^,\[\]()])*"
    found = re.compile(balanced).match(text, opened.start(2))
    selector = found[0].strip() if found else ""
    if not selector or '"' in selector or not (opened[1] or selector.startswith(("loc:", "op:"))):
        return ""
    return f"; quote a name of other characters: {json.dumps(selector, ensure_ascii=False)}"


def _point(text: str, column: int) -> list[str]:
    return [text, " " * (column - 1) + "^"]


def _expand(items: Iterable[_Item], text: str) -> Iterator[tuple[_Item, str]]:
    """Yields items, those of named pipelines in their place, each with the text it stands in."""
    for item in items:
        if item.name not in PIPELINES:
            yield item, text
            continue
        if item.called:
            raise ParseError(
                f"pipeline: '{item.name}' takes no options; write its passes out",
                [PIPELINES[item.name]],
            )
        yield from _expand(_parse_items(PIPELINES[item.name]), PIPELINES[item.name])


def _build(item: _Item, text: str, allow: list[Exactness]) -> Pass | None:
    if item.name in ("repeat", "allow") and item.options:
        name = item.options[0][0]
        raise ParseError(f"pipeline: {item.name} has no option '{name}'", _point(text, item.column))
    if item.name == "repeat":
        steps = (_build(*part, allow) for part in _expand(item.items, text))
        return Repeat(tuple(step for step in steps if step is not None))
    if item.name == "allow":
        names = [part.name for part in item.items]
        if names not in (["exact"], ["within_1lsb"]):
            raise ParseError(
                "pipeline: expected allow(exact) or allow(within_1lsb), "
                f"got allow({', '.join(names)})"
            )
        allow.append("exact" if names == ["exact"] else "within_1lsb")
        return None
    if item.name not in PASSES:
        hint = did_you_mean(item.name, [*PASSES, *PIPELINES, "repeat", "allow"])
        raise ParseError(f"pipeline: no pass '{item.name}'{hint}", _point(text, item.column))
    if item.items:
        raise ParseError(
            f"pipeline: expected option=value in {item.name}(...), got '{item.items[0].name}'",
            _point(text, item.items[0].column),
        )
    options = dict(item.options)
    if len(options) < len(item.options):
        raise ParseError(f"pipeline: {item.name} has an option twice", _point(text, item.column))
    return make_pass(PASSES[item.name], options, _point(text, item.column))
