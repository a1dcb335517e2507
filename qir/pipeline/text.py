"""Pipelines as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qir.errors import ParseError, PassError, did_you_mean
from qir.ir import Graph
from qir.pipeline.context import Context
from qir.pipeline.items import Item, point
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


def _parse_items(text: str) -> list[Item]:
    items, column = [], 1
    for part in text.split(","):
        name = part.strip()
        if name not in PASSES and name not in PIPELINES:
            # What has options is read by a grammar, which takes longer to load than all the rest.
            from qir.pipeline.grammar import read_items

            return read_items(text)
        items.append(Item(name, column + len(part) - len(part.lstrip()), (), (), False))
        column += len(part) + 1
    return items


def _expand(items: Iterable[Item], text: str) -> Iterator[tuple[Item, str]]:
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


def _build(item: Item, text: str, allow: list[Exactness]) -> Pass | None:
    if item.name in ("repeat", "allow") and item.options:
        name = item.options[0][0]
        raise ParseError(f"pipeline: {item.name} has no option '{name}'", point(text, item.column))
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
        if item.name == "auto":
            hint = "; auto is a search of qir.quantize, which begins from w8a8: take that here"
        raise ParseError(f"pipeline: no pass '{item.name}'{hint}", point(text, item.column))
    if item.items:
        raise ParseError(
            f"pipeline: expected option=value in {item.name}(...), got '{item.items[0].name}'",
            point(text, item.items[0].column),
        )
    options = dict(item.options)
    if len(options) < len(item.options):
        raise ParseError(f"pipeline: {item.name} has an option twice", point(text, item.column))
    return make_pass(PASSES[item.name], options, point(text, item.column))
