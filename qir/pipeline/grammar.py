"""Pipelines with options, from text to items."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, cast

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args

from qir.errors import ParseError
from qir.pipeline.items import Item, point

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


class _ToItems(Transformer[Token, Any]):
    NUMBER = staticmethod(float)
    INT = staticmethod(int)

    def STRING(self, token: Token) -> str:
        try:
            return str(json.loads(token, strict=False))
        except ValueError as error:
            places = point(token, 1)
            raise ParseError("pipeline: expected a text quoted as in JSON", places) from error

    def array(self, items: list[Any]) -> list[Any]:
        return [
            str(item) if isinstance(item, Token) else item for item in items if item is not None
        ]

    @v_args(inline=True)
    def option(self, name: Token, value: Any) -> tuple[str, Any]:
        return str(name), str(value) if isinstance(value, Token) else value

    @v_args(inline=True)
    def argument(self, item: Item) -> Item:
        return item

    def item(self, parts: list[Any]) -> Item:
        name, *arguments = parts
        options = tuple(part for part in arguments if isinstance(part, tuple))
        items = tuple(part for part in arguments if isinstance(part, Item))
        return Item(str(name), name.column or 1, options, items, bool(options or items))

    def pipeline(self, items: list[Any]) -> list[Item]:
        return [item for item in items if item is not None]


@cache
def _lark() -> Lark:
    return Lark(
        _GRAMMAR, start="pipeline", parser="lalr", transformer=_ToItems(), maybe_placeholders=True
    )


def read_items(text: str) -> list[Item]:
    """Reads the items of a pipeline; raises ParseError where they don't fit the grammar."""
    try:
        items = cast(list[Item], _lark().parse(text))
    except (UnexpectedToken, UnexpectedCharacters) as error:
        if isinstance(error, UnexpectedToken) and error.token.type == "$END":
            message, column = "pipeline: expected more text, got the end", len(text) + 1
        else:
            message, column = "pipeline: expected passes separated by commas", error.column
            message += _hint_to_quote(text, column)
        raise ParseError(message, point(text, column)) from error
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
