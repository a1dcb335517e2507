"""Passes, pipelines as text, and the manager that runs them."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    TextIO,
    TypeAlias,
    TypeVar,
    cast,
    dataclass_transform,
)

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args

from qir.attributes import attribute_fields, coerce
from qir.certificates import drop_false_certificates
from qir.equivalence import Interpreter, check_equivalent, in_float64, in_types_of
from qir.errors import ParseError, PassError, QirError, did_you_mean
from qir.files import write_atomically
from qir.ir import Graph, Value
from qir.properties import FLOAT, Property
from qir.rewrite import Exactness
from qir.statistics import MovingAverage, Statistic
from qir.text import to_program
from qir.text.printer import format_attribute
from qir.types import Array, DType
from qir.verify import verify, verify_structure

Batch: TypeAlias = Any
"""An array for the only input, a tuple of arrays in the order of the inputs, or a dict by name."""

Effect: TypeAlias = Literal["exact", "within_1lsb", "approximate"]
"""What a pass keeps: everything, stored numbers but for one step, or what the model is about."""


class Executor(Protocol):
    """Runs float graphs for passes; supplied by the caller, so that passes import no backend."""

    def run(self, graph: Graph, *inputs: Array) -> tuple[Array, ...]:
        """Computes the outputs of a graph."""
        ...

    def probe(
        self, graph: Graph, values: Sequence[Value], reduce: Callable[[Any, Any], Any] | None = None
    ) -> Callable[..., list[Any]]:
        """Compiles a function from input arrays to values inside the graph.

        Args:
            graph: The graph.
            values: The values to return.
            reduce: `reduce(array, xp)`, written against an array namespace, applied to each value
                where it is computed, so that only its result is kept.
        """
        ...

    def as_jax(self, graph: Graph) -> Callable[..., Any]:
        """Returns a differentiable function `f(parameters, *inputs)` of a float graph."""
        ...


@dataclass
class Context:
    """What passes get beside the graph.

    Args:
        data: Calibration batches, an iterable; see Batch.
        executor: Runs float graphs.
        interpreter: The reference interpreter, for checks.
        seed: Seed of anything random.
        progress: Whether long passes show a progress bar.
        allow: The least exactness that rewrites may have; the pipeline's directive `allow(...)`
            sets it.

    Attributes:
        diagnostics: Sentences that passes leave for the user.
        statistics: What calibration observed, by the name of the imported value.
        averages: Moving averages of the extremes of its batches, likewise.
        timings: (pass, seconds) of every pass that ran.
        unattained: What a pass is there for but found nothing to make it of, as quantize in a
            program that only returns its inputs: passes that need it are left out.
    """

    data: Iterable[Batch] | None = None
    executor: Executor | None = None
    interpreter: Interpreter | None = None
    seed: int = 0
    progress: bool = False
    allow: Exactness = "exact"
    diagnostics: list[str] = field(default_factory=list)
    statistics: dict[str, Statistic] = field(default_factory=dict)
    averages: dict[str, MovingAverage] = field(default_factory=dict)
    timings: list[tuple[str, float]] = field(default_factory=list)
    unattained: set[Property] = field(default_factory=set)


class Pass(ABC):
    """A step from one valid graph to another.

    Subclasses are frozen dataclasses whose fields are the options.

    Attributes:
        name: Name in pipelines, kebab-case.
        requires: What must hold before.
        ensures: What holds after.
        keeps: What the pass keeps of the program, whatever its options are; otherwise a subclass
            overrides the property `effect`.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[Property, ...]] = ()
    ensures: ClassVar[tuple[Property, ...]] = ()
    keeps: ClassVar[Effect] = "exact"

    @property
    def effect(self) -> Effect:
        """What the pass keeps of the program with these options."""
        return self.keeps

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> None:
        """Changes the graph in place; raises QirError where it can't."""

    def __post_init__(self) -> None:
        for spec in attribute_fields(type(self)):
            value = coerce(getattr(self, spec.name), spec.annotation, f"{self.name}: {spec.name}")
            object.__setattr__(self, spec.name, value)
        self.check()

    def check(self) -> None:  # noqa: B027 - overriding it is optional
        """Raises QirError for options that can't stand together; the default accepts all."""

    def __str__(self) -> str:
        options = [
            f"{spec.name}={format_attribute(getattr(self, spec.name))}"
            for spec in attribute_fields(type(self))
            if getattr(self, spec.name) != spec.default
        ]
        return self.name + (f"({', '.join(options)})" if options else "")


PassT = TypeVar("PassT", bound=Pass)

PASSES: dict[str, type[Pass]] = {}
"""Every registered pass by name."""

PIPELINES: dict[str, str] = {}
"""Named pipelines, which expand in place."""


@dataclass_transform(frozen_default=True)
def register(cls: type[PassT]) -> type[PassT]:
    """Enters a pass into the registry and makes it a frozen dataclass.

    Raises:
        QirError: The name is taken.
    """
    if cls.name in PIPELINES or (
        cls.name in PASSES and PASSES[cls.name].__qualname__ != cls.__qualname__
    ):
        raise QirError(f"pass: '{cls.name}' is already registered")
    declared = dataclass(frozen=True, repr=False)(cls)
    PASSES[cls.name] = declared
    return declared


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
NAME     : /[A-Za-z_*?][\w\-*?.\/:]*/
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
        raise ParseError(message, _point(text, column)) from error
    return items


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


def make_pass(cls: type[Pass], options: Mapping[str, Any], places: Sequence[str] = ()) -> Pass:
    """Builds a pass from options by name.

    Raises:
        ParseError: An option does not exist, is missing or does not fit.
    """
    specs = {spec.name: spec for spec in attribute_fields(cls)}
    for name in options:
        if name not in specs:
            known = f"; its options are {', '.join(specs)}" if specs else "; it has none"
            raise ParseError(
                f"pipeline: {cls.name} has no option '{name}'{did_you_mean(name, specs) or known}",
                places,
            )
    for name, spec in specs.items():
        if spec.default is MISSING and name not in options:
            raise ParseError(f"pipeline: {cls.name} needs the option '{name}'", places)
    try:
        return cls(**options)
    except QirError as error:
        raise ParseError(f"pipeline: {error.message}", places) from error


@dataclass
class PassManager:
    """Runs a pipeline over a graph.

    Args:
        pipeline: The passes.
        dump_dir: Folder for `00-input.qir`, `01-<pass>.qir`, …, or None; a file is written when the
            text changed.
        print_after_all: Stream that gets the text after every pass, or None.
        check_inputs: Arrays with which to check after each pass that the program still computes the
            same.
    """

    pipeline: Pipeline
    dump_dir: Path | None = None
    print_after_all: TextIO | None = None
    check_inputs: Sequence[Array] | None = None

    def run(self, graph: Graph, context: Context) -> Graph:
        """Runs the passes over a copy of the graph and returns the copy; the graph stays as it is.

        Raises:
            PassError: A pass is less exact than the pipeline allows, does not find what it
                requires, fails, or leaves a graph that is invalid or computes something else. The
                message names it.
        """
        self._check_exactness()
        result = graph.copy()
        if not any(value.origin for value in result.values()):
            result.record_origins()
        context.allow = self.pipeline.allow
        verify(result)
        self._dumped = ""
        self._count = 0
        self._dump(result, "input")
        for step in self.pipeline.steps:
            self._step(step, result, context)
        return result

    def _check_exactness(self) -> None:
        for step in _flat(self.pipeline.steps):
            if step.effect == "within_1lsb" and self.pipeline.allow == "exact":
                raise PassError(
                    f"pipeline: {step} is within 1 LSB, not exact; put allow(within_1lsb) into the "
                    "pipeline to permit it"
                )

    def _step(self, step: Pass, graph: Graph, context: Context) -> None:
        if isinstance(step, Repeat):
            for _ in range(32):
                earlier = graph.copy()
                for inner in step.steps:
                    self._step(inner, graph, context)
                if earlier == graph:
                    return
            raise PassError(f"pipeline: {step} does not come to an end in 32 rounds")
        for wanted in step.requires:
            if reason := wanted.missing(graph):
                if wanted in context.unattained:
                    return
                raise PassError(
                    f"pipeline: {step.name} needs {wanted.name}: {reason}; {wanted.remedy}"
                )
        before = (
            graph.copy() if self.check_inputs is not None and step.effect != "approximate" else None
        )
        start = time.perf_counter()
        try:
            step.run(graph, context)
        except QirError as error:
            raise error.at(f"in pass {step}") from error
        except Exception as error:
            error.add_note(f"in pass {step}")
            raise
        context.timings.append((str(step), time.perf_counter() - start))
        graph.drop_unused_constants()
        self._count += 1
        try:
            try:
                verify_structure(graph)
                for dropped in drop_false_certificates(graph):
                    context.diagnostics.append(f"{step.name}: drops a certificate, {dropped}")
            finally:
                self._dump(graph, step.name)
            if (
                before is not None
                and self.check_inputs is not None
                and context.interpreter is not None
            ):
                self._check(step, before, graph, context, self.check_inputs, context.interpreter)
            for promised in step.ensures:
                if reason := promised.missing(graph):
                    raise PassError(
                        f"pipeline: {step.name} should have left {promised.name}: {reason}"
                    )
        except QirError as error:
            where = f", dumped in {self.dump_dir}" if self.dump_dir else ""
            raise error.at(f"after pass {step}{where}") from error

    @staticmethod
    def _check(
        step: Pass,
        before: Graph,
        after: Graph,
        context: Context,
        inputs: Sequence[Array],
        interpreter: Interpreter,
    ) -> None:
        allowed = 1 if step.effect == "within_1lsb" else 0
        try:
            check_equivalent(before, after, inputs, interpreter, steps=allowed)
        except PassError as error:
            types = {value.type.element for value in before.values()}
            if FLOAT.missing(before) or DType.F32 not in types or types & {DType.F16, DType.BF16}:
                raise
            # What a pass folds is rounded to f32; the same pass over f64 shows what else it does.
            twin = in_float64(before)
            changed, wide = twin.copy(), in_types_of(twin, inputs)
            step.run(changed, replace(context, diagnostics=[]))
            try:
                check_equivalent(twin, changed, wide, interpreter, steps=allowed)
            except PassError:
                raise error from None

    def _dump(self, graph: Graph, name: str) -> None:
        if self.print_after_all is not None:
            print(f"// after {name}\n{graph}\n", file=self.print_after_all)
        if self.dump_dir is None:
            return
        text = to_program(graph).text
        if text != self._dumped:
            self.dump_dir.mkdir(parents=True, exist_ok=True)
            path = self.dump_dir / f"{self._count:02d}-{name}.qir"
            write_atomically({path: lambda file: file.write(text.encode())})
            self._dumped = text


def _flat(steps: Iterable[Pass]) -> Iterator[Pass]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _flat(step.steps)
        else:
            yield step
