"""A model read node by node: values by the source's names, rules by kinds of nodes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from qir.errors import QirError, counted, did_you_mean, kind_of, what_failed
from qir.frontends.shared.constants import constant
from qir.frontends.shared.emitter import Emitter, Operand
from qir.frontends.shared.known import Known
from qir.frontends.shared.naming import identifier
from qir.frontends.shared.refusals import REFUSED, Refusals
from qir.ir import Graph, Value
from qir.types import TensorType

ImportRule: TypeAlias = Callable[..., Operand | Sequence[Operand]]
"""`rule(b, *operands, **attributes)` writes what a node computes and returns its results."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Translation:
    """A model that is being read: inputs, constants and nodes in order, then `finish`.

    What can't be read is gathered, and `finish` tells all of it in one error.

    Args:
        subject: The function that imports, which begins errors.
        kind: What the source calls its operations, in the plural: "layers", "nodes".
        rules: A rule for each kind of node.
        name: The name of the model.

    Attributes:
        b: What rules write with; its graph is the result.
        values: What the names of the source stand for.
    """

    def __init__(
        self, subject: str, kind: str, rules: Mapping[str, ImportRule], name: str = "model"
    ) -> None:
        self.subject = subject
        self.rules = rules
        self.b = Emitter(Graph(identifier(name, "model").replace(".", "_")))
        self.values: dict[str, Any] = {}
        self.refusals = Refusals(subject, kind)

    def input(self, name: str, type: TensorType) -> None:
        """Declares an input."""
        self._define(name, name, lambda: [self.b.input(name, type)])

    def constant(self, name: str, array: Any) -> None:
        """Declares an array whose numbers are known, see `qir.frontends.shared.constant`."""
        self._define(name, name, lambda: [constant(array, name)])

    def node(
        self,
        kind: str,
        inputs: Iterable[str],
        outputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        place: str | None = None,
    ) -> None:
        """Reads a node.

        Args:
            kind: What its rule is found by.
            inputs: The names of its operands.
            outputs: The names of its results.
            attributes: What the rule gets by name.
            place: Where in the source it stands; the name of its first result when None.
        """
        where = outputs[0] if place is None else place
        rule = self.rules.get(kind)
        if rule is None:
            self.refusals.without_rule(kind, where)
            self.values.update(dict.fromkeys(outputs, REFUSED))
            return

        def write() -> Sequence[Any]:
            operands = [self._operand(name) for name in inputs]
            if any(operand is REFUSED for operand in operands):
                return [REFUSED] * len(outputs)
            self.b.loc = where
            given = dict(attributes or {})
            _check_call(kind, rule, len(operands), given)
            try:
                found = rule(self.b, *operands, **given)
            except QirError:
                raise
            except Exception as error:  # any: a rule may be the user's, and the place helps
                raise QirError(f"{kind}: its rule failed: {what_failed(error)}") from error
            results: list[Any] = [*found] if isinstance(found, list | tuple) else [found]
            if len(results) != len(outputs):
                raise QirError(
                    f"{kind}: expected {counted(len(outputs), 'result')} of its rule, got "
                    f"{len(results)}"
                )
            for result in results:
                if not isinstance(result, Value | Known):
                    raise QirError(
                        f"{kind}: expected its rule to return what b.emit or an operand is, got "
                        f"{kind_of(result)}"
                    )
            return [
                self.b.name(result, name) for result, name in zip(results, outputs, strict=True)
            ]

        self._define(where, outputs, write)

    def finish(
        self,
        outputs: Iterable[str],
        advice: Callable[[Sequence[str]], Iterable[str]] = lambda names: (),
    ) -> Graph:
        """Returns the graph.

        Args:
            outputs: The names of what the model returns.
            advice: Gives lines that say what to do, from the names of the kinds without a rule.

        Raises:
            UnsupportedError: There are nodes without a rule: all are named, with their places.
            QirError: Something can't be read: the first error, the others below it.
        """
        names = list(outputs)
        found = self.refusals.attempt("the outputs", len(names), lambda: self._named(names))
        self.refusals.check(advice)
        self.b.graph.set_outputs([self.b.value(operand) for operand in found])
        self.b.graph.record_origins()
        return self.b.graph

    def _define(
        self, place: str, names: str | Sequence[str], write: Callable[[], Sequence[Any]]
    ) -> None:
        wanted = [names] if isinstance(names, str) else names

        def define() -> Sequence[Any]:
            for name in wanted:
                if name in self.values:
                    raise QirError(f"{self.subject}: expected a new name, got '{name}' twice")
            return write()

        results = self.refusals.attempt(place, len(wanted), define)
        self.values |= dict(zip(wanted, results, strict=True))

    def _named(self, names: Iterable[str]) -> list[Any]:
        return [self._operand(name) for name in names]

    def _operand(self, name: str) -> Any:
        if name not in self.values:
            raise QirError(
                f"{self.subject}: expected the name of an input, a constant or an earlier result, "
                f"got '{name}'{did_you_mean(name, self.values)}"
            )
        return self.values[name]


def _check_call(kind: str, rule: ImportRule, operands: int, attributes: Mapping[str, Any]) -> None:
    """Raises QirError where a rule does not take the operands or the attributes of a node."""
    signature = inspect.signature(rule)
    try:
        signature.bind(None, *range(operands), **attributes)
    except TypeError:
        _, *parameters = signature.parameters.values()
    else:
        return
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    named = [each for each in parameters if each.kind is each.KEYWORD_ONLY]
    known = [each.name for each in (*positional[operands:], *named)]
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        for name in attributes:
            if name not in known:
                listed = f"; its rule takes {', '.join(known) or 'none'}"
                raise QirError(
                    f"{kind}: no attribute '{name}'{did_you_mean(name, known) or listed}"
                )
    for each in named:
        if each.default is each.empty and each.name not in attributes:
            raise QirError(f"{kind}: expected the attribute '{each.name}', which its rule needs")
    left = [each for each in positional if each.name not in attributes]
    least, most = sum(each.default is each.empty for each in left), len(left)
    many = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    wanted = f"{least} or more" if many else least if least == most else f"{least} to {most}"
    raise QirError(f"{kind}: expected {counted(wanted, 'operand')}, got {operands}")
