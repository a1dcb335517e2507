"""Passes, by the names that pipelines call them by."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, dataclass_transform

from qir.analysis.properties import Property
from qir.errors import ParseError, QirError, did_you_mean
from qir.ir import Graph
from qir.ops.attributes import attribute_fields, declared_fields, expect_class, is_taken
from qir.pipeline.context import Context
from qir.text.configured import Configured

Effect: TypeAlias = Literal["exact", "within_1lsb", "approximate"]
"""What a pass keeps: everything, stored numbers but for one step, or what the model is about."""


@dataclass(frozen=True, repr=False)
class Pass(Configured, ABC):
    """A step from one valid graph to another.

    Subclasses are frozen dataclasses whose fields are the options.

    Attributes:
        name: Name in pipelines, kebab-case.
        requires: What must hold before, whatever the options are; otherwise a subclass overrides
            the property `needs`.
        ensures: What holds after.
        keeps: What the pass keeps of the program, whatever its options are; otherwise a subclass
            overrides the property `effect`.
        follows: What it reads of the rules of a recipe, by the names of their fields.
        whole_program: Whether `run` is called once and looks into regions itself; otherwise it is
            called for each region, innermost first, then for the graph around them, and treats
            each alone. A region keeps its inputs and what it returns, in number, order and type.
    """

    requires: ClassVar[tuple[Property, ...]] = ()
    ensures: ClassVar[tuple[Property, ...]] = ()
    keeps: ClassVar[Effect] = "exact"
    follows: ClassVar[tuple[str, ...]] = ()
    whole_program: ClassVar[bool] = False

    @classmethod
    def options_of(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the options of the pass for those that a text gives; the same by default."""
        return given

    @property
    def effect(self) -> Effect:
        """What the pass keeps of the program with these options."""
        return self.keeps

    @property
    def needs(self) -> tuple[Property, ...]:
        """What must hold before the pass with these options."""
        return self.requires

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> None:
        """Changes the graph in place; raises QirError where it can't."""

    def run_everywhere(self, program: Graph, context: Context) -> None:
        """Runs the pass over a program, regions included.

        Raises:
            QirError: The pass can't; the places tell the region.
        """
        if not self.whole_program:
            for node in program.nodes:
                for index, region in enumerate(node.regions):
                    try:
                        self.run_everywhere(region, context)
                    except QirError as error:
                        raise error.at(node.region_place(index)) from error
        self.run(program, context)


PassT = TypeVar("PassT", bound=Pass)

_NAME = re.compile(r"[^\W\d][\w\-]*")


PASSES: dict[str, type[Pass]] = {}
"""Every registered pass by name."""


PIPELINES: dict[str, str] = {}
"""Named pipelines, which expand in place."""


@dataclass_transform(frozen_default=True)
def register(cls: type[PassT]) -> type[PassT]:
    """Enters a pass into the registry and makes it a frozen dataclass.

    Raises:
        QirError: The name is missing, taken, or none that a pipeline can hold; the class does not
            derive from Pass, has no `run`, or has options that no text can hold.
    """
    expect_class(cls, Pass, "pass")
    name = getattr(cls, "name", None)
    if name is None:
        raise QirError(
            f"pass: expected {cls.__qualname__} to have a name for pipelines, such as "
            'name = "my-pass"'
        )
    if not _NAME.fullmatch(str(name)) or name in ("allow", "repeat"):
        raise QirError(
            "pass: expected a name of letters, digits, '-' and '_' other than allow and repeat, "
            f"got '{name}'"
        )
    if cls.__abstractmethods__:
        raise QirError(
            f"pass {name}: expected {cls.__qualname__} to define "
            f"{', '.join(sorted(cls.__abstractmethods__))}"
        )
    if cls.name in PIPELINES or is_taken(cls.name, PASSES, cls):
        raise QirError(f"pass: '{cls.name}' is already registered")
    declared = declared_fields(cls, f"pass {name}", repr=False)
    PASSES[cls.name] = declared
    return declared


def make_pass(cls: type[Pass], options: Mapping[str, Any], places: Sequence[str] = ()) -> Pass:
    """Builds a pass from options by name.

    Raises:
        ParseError: An option does not exist, is missing or does not fit.
    """
    specs = {spec.name: spec for spec in attribute_fields(cls)}
    try:
        options = cls.options_of(options)
    except QirError as error:
        raise ParseError(f"pipeline: {error.message}", places) from error
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


def check_options(function: str, given: Iterable[str], names: Sequence[str]) -> None:
    """Raises QirError for an option that a function lacks; says where one of a pass is written.

    Args:
        function: The function, for the error.
        given: The options that it was given.
        names: Those that it has.
    """
    for name in given:
        if name in names:
            continue
        owners = sorted(
            key
            for key, kind in PASSES.items()
            if any(spec.name == name for spec in attribute_fields(kind))
        )
        hint = did_you_mean(name, names)
        if owners:
            hint = (
                f"; it is one of pass {' and of pass '.join(owners)}, written in the "
                f"pipeline: '…, {owners[0]}({name}=…), …'"
            )
        raise QirError(f"{function}: no option '{name}'{hint}")
