"""A model read node by node: values by the source's names, rules by kinds of nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from qir.errors import QirError, counted, did_you_mean
from qir.frontends.shared.constants import constant
from qir.frontends.shared.emitter import Emitter, Operand
from qir.frontends.shared.naming import identifier
from qir.frontends.shared.refusals import REFUSED, Refusals
from qir.ir import Graph
from qir.types import TensorType

ImportRule: TypeAlias = Callable[..., Operand | Sequence[Operand]]
"""`rule(b, *operands, **attributes)` writes what a node computes and returns its results."""


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
            found = rule(self.b, *operands, **(attributes or {}))
            results: list[Any] = [*found] if isinstance(found, list | tuple) else [found]
            if len(results) != len(outputs):
                raise QirError(
                    f"{kind}: expected {counted(len(outputs), 'result')} of its rule, got "
                    f"{len(results)}"
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
