"""Recipes: which ops of a program are quantized otherwise than the pipeline says, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from qir.errors import QirError, did_you_mean, kind_of
from qir.ir import ChosenOption, Graph, Value
from qir.ops.attributes import coerce
from qir.pipeline.recipe_text import parse_toml, place_of, read_text, toml_of
from qir.pipeline.selectors import select_values
from qir.text.files import write_atomically

RecipeLike: TypeAlias = "Recipe | str | os.PathLike[str] | Iterable[RecipeRule | Mapping[str, Any]]"
"""A recipe, the path of one, or its rules in order."""


@dataclass(frozen=True, kw_only=True)
class RecipeRule:
    """What the selected ops have otherwise than the pipeline says; None says nothing.

    Attributes:
        select: Selectors of ops or inputs, which `qir opt --list` explains (`SELECTORS` in
            qir.pipeline.selectors). `activations` and `method` are of what an op computes, the
            others of the op.
        activations: The storage of the result; i4 where codes are found at run time, where i8 and
            i4 are what products may read it in.
        weights: The storage of the weights.
        per: What of the weights has a scale of its own, as of pass quantize.
        scheme: The kind of code of the weights, likewise.
        method: How the range of the result follows from what calibrate saw, as of that pass.
        keep_float: Whether the op stays in floating point.
        reason: Why, for whoever reads `qir.explain`.
    """

    select: tuple[str, ...]
    activations: Literal["i8", "u8", "i16", "i4"] | None = None
    weights: Literal["i8", "i4", "i2", "i16"] | None = None
    per: str | None = None
    scheme: str | None = None
    method: str | None = None
    keep_float: bool | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        given: Any = self.select
        selectors = (given,) if isinstance(given, str) else given
        if (
            not isinstance(selectors, list | tuple)
            or not selectors
            or not all(isinstance(each, str) and each for each in selectors)
        ):
            raise QirError(
                "rule: select: expected selectors such as 'op:softmax', got "
                f"{repr(given) if isinstance(given, list | tuple | str) else kind_of(given)}"
            )
        object.__setattr__(self, "select", tuple(selectors))
        for name, wanted in _ANNOTATIONS.items():
            if (value := getattr(self, name)) is not None or name == "reason":
                object.__setattr__(self, name, coerce(value, wanted, f"rule: {name}"))
        if not self.choices:
            raise QirError(
                f"rule: expected one of {', '.join(CHOICES)} for {', '.join(self.select)}, got none"
            )

    @property
    def choices(self) -> dict[str, Any]:
        """What it says, by the names of the fields."""
        given = {name: getattr(self, name) for name in CHOICES}
        return {name: value for name, value in given.items() if value is not None}

    @staticmethod
    def of(given: object) -> RecipeRule:
        """Returns a rule that may be given as a mapping of its fields.

        Raises:
            QirError: It is no rule, or a field does not exist or does not fit.
        """
        if isinstance(given, RecipeRule):
            return given
        if not isinstance(given, Mapping):
            raise QirError(
                f"recipe: expected a qir.RecipeRule or a dict of its fields, got {kind_of(given)}"
            )
        names = [spec.name for spec in fields(RecipeRule)]
        for name in given:
            if name not in names:
                hint = did_you_mean(str(name), names) or f"; its fields are {', '.join(names)}"
                raise QirError(f"rule: no field '{name}'{hint}")
        if "select" not in given:
            raise QirError("rule: expected select, the ops that it is for, got none")
        return RecipeRule(**given)

    def __str__(self) -> str:
        said = (f"{name}={_plain(value)}" for name, value in self.choices.items())
        return f"{', '.join(self.select)}: {', '.join(said)}"


_ANNOTATIONS: dict[str, Any] = {
    "activations": Literal["i8", "u8", "i16", "i4"],
    "weights": Literal["i8", "i4", "i2", "i16"],
    "per": str,
    "scheme": str,
    "method": str,
    "keep_float": bool,
    "reason": str,
}

CHOICES = tuple(name for name in _ANNOTATIONS if name != "reason")
"""What a rule can say, by the names of its fields."""


@dataclass(frozen=True)
class Effective:
    """What the rules of a recipe say of one value and the op that computes it.

    Attributes:
        choices: What is chosen, by the names of a rule's fields, each with the rule that chose it.
    """

    choices: Mapping[str, tuple[Any, RecipeRule]]

    def get(self, name: str) -> Any:
        """Returns what is chosen of one kind; None where the pipeline's option holds."""
        return self.choices[name][0] if name in self.choices else None

    def only(self, names: Collection[str]) -> Effective:
        """Returns what is chosen of some kinds."""
        return Effective({name: each for name, each in self.choices.items() if name in names})

    @property
    def values(self) -> dict[str, Any]:
        """What is chosen, by the names of a rule's fields."""
        return {name: value for name, (value, _) in self.choices.items()}

    @property
    def rules(self) -> tuple[RecipeRule, ...]:
        """The rules that chose."""
        return tuple(rule for _, rule in self.choices.values())

    @property
    def told(self) -> tuple[ChosenOption, ...]:
        """What is chosen and why, for `qir.explain`."""
        return tuple(
            ChosenOption(f"{name}={_plain(value)}", rule.reason)
            for name, (value, rule) in self.choices.items()
        )


@dataclass(frozen=True)
class Recipe:
    """Rules in order: of two that choose the same for an op, the later one holds.

    Attributes:
        rules: The rules.
        pipeline: The pipeline that they are for; None where the caller says it.
    """

    rules: tuple[RecipeRule, ...] = ()
    pipeline: str | None = None

    @staticmethod
    def of(given: RecipeLike) -> Recipe:
        """Returns a recipe that may be given as the path of a TOML file, or as its rules.

        Raises:
            QirError: It is none, or a rule does not fit.
        """
        if isinstance(given, Recipe):
            return given
        if isinstance(given, str | os.PathLike):
            return Recipe.load(given)
        if isinstance(given, Mapping) or not isinstance(given, Iterable):
            raise QirError(
                "recipe: expected a qir.Recipe, the path of a TOML file or a list of rules, got "
                f"{kind_of(given)}"
            )
        return Recipe(tuple(map(RecipeRule.of, given)))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Recipe:
        """Reads a recipe from a TOML file; see `parse`.

        Raises:
            QirError: The file can't be read, or holds no recipe.
        """
        text = read_text(path)
        try:
            return Recipe.parse(text)
        except QirError as error:
            raise error.at(f"in {path}") from error

    @staticmethod
    def parse(text: str) -> Recipe:
        """Reads a recipe: `pipeline = "w8a8"`, and a table `[[rule]]` for each rule.

        Raises:
            QirError: The text is no TOML, or a key or rule does not fit.
        """
        pipeline, rules = parse_toml(text)
        made = []
        for index, rule in enumerate(rules):
            try:
                made.append(RecipeRule.of(rule))
            except QirError as error:
                raise error.at(place_of(text, index, error.message)) from error
        return Recipe(tuple(made), pipeline)

    @property
    def text(self) -> str:
        """The recipe as TOML, which `parse` reads."""
        tables = [
            {"select": list(rule.select) if rule.select[1:] else rule.select[0]}
            | rule.choices
            | ({"reason": rule.reason} if rule.reason else {})
            for rule in self.rules
        ]
        return toml_of(self.pipeline, tables)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the recipe as TOML.

        Raises:
            QirError: The path can't be written, or a text holds what UTF-8 does not.
        """
        try:
            text = self.text.encode()
        except UnicodeEncodeError as error:
            raise QirError(f"recipe: expected text that UTF-8 can hold: {error}") from error
        write_atomically({Path(path): lambda file: file.write(text)})

    def with_rules(self, *rules: RecipeRule) -> Recipe:
        """Returns the recipe with more rules behind its own."""
        return replace(self, rules=(*self.rules, *rules))

    def index(self, rule: RecipeRule) -> int:
        """Returns the place of a rule, which is one of its own and not one that is equal."""
        return next(index for index, each in enumerate(self.rules) if each is rule)

    @contextmanager
    def placed(self, *rules: RecipeRule) -> Generator[None]:
        """Adds to errors which rules they are of."""
        try:
            yield
        except QirError as error:
            for index in dict.fromkeys(map(self.index, rules)):
                error.at(_place(index, self.rules[index]))
            raise

    def resolve(
        self,
        graph: Graph,
        choices: Sequence[str] = CHOICES,
        serves: Callable[[str, Value], bool] = lambda name, value: True,
        earlier: Graph | None = None,
    ) -> dict[Value, Effective]:
        """Returns what the rules say of each value that any of them selects, regions included.

        Args:
            graph: The program.
            choices: What to look at: rules that choose nothing of it are passed over.
            serves: Whether a choice can mean something for a value and its op.
            earlier: The program before passes changed it, for what became of a name in it.

        Raises:
            QirError: A rule selects nothing, or chooses what nothing that it selects has, or what
                later rules choose for all of it.
        """
        found: dict[Value, dict[str, tuple[Any, RecipeRule]]] = {}
        places: dict[tuple[int, str], list[Value]] = {}
        for index, rule in enumerate(self.rules):
            said = {name: value for name, value in rule.choices.items() if name in choices}
            if not said:
                continue
            with self.placed(rule):
                selected = select_values(graph, rule.select, earlier)
            for name, value in said.items():
                served = [each for each in selected if serves(name, each)]
                if not served:
                    raise QirError(_without_use(graph, rule, name, serves), [_place(index, rule)])
                for each in served:
                    found.setdefault(each, {})[name] = value, rule
                places[index, name] = served
        for (index, name), served in places.items():
            holders = [found[value][name][1] for value in served]
            if all(holder is not self.rules[index] for holder in holders):
                last = max(map(self.index, holders))
                raise QirError(
                    f"recipe: {name} of rule {index + 1} is without effect: rule {last + 1} says "
                    "it for all that it selects; put it behind, or leave it out",
                    [_place(index, self.rules[index])],
                )
        return {value: Effective(chosen) for value, chosen in found.items()}


def _place(index: int, rule: RecipeRule) -> str:
    return f"in rule {index + 1}, {rule}"


def _without_use(
    graph: Graph, rule: RecipeRule, name: str, serves: Callable[[str, Value], bool]
) -> str:
    """Returns the error of a rule that chooses what nothing it selects has."""
    made = (value for node in graph.walk() for value in node.outputs)
    values = (value for value in (*graph.inputs, *made) if not value.is_constant)
    fitting = list(dict.fromkeys(value.name for value in values if serves(name, value)))
    near = did_you_mean(rule.select[0].lstrip("%"), fitting)
    few = f"; it is for {', '.join(fitting[:5])}" if fitting else "; nothing in the program has it"
    return f"recipe: {name}: expected ops that have it, got {', '.join(rule.select)}{near or few}"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
