"""What raising passes are built of, and the way to run them that can make no import fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from qir.analysis.verify import verify
from qir.errors import PassError, what_failed
from qir.ir import Graph
from qir.ir.names import Inheritance
from qir.pipeline import Context, Pass
from qir.pipeline.rewrite import Rule, rewrite

_MOST_ROUNDS = 32


class Raising(Pass):
    """A pass of rules that find ops in what frontends have translated.

    A rule that fails somewhere leaves the ops there as they are, and the diagnostics name it.

    Attributes:
        rules: The rules, tried in order at every node.
    """

    rules: ClassVar[tuple[Rule, ...]]

    def run(self, graph: Graph, context: Context) -> None:
        names = Inheritance(graph)
        context.diagnostics += self.apply(graph, self.rules)
        names.settle()

    def apply(self, graph: Graph, rules: Sequence[Rule]) -> list[str]:
        """Applies some of the rules until none fires, and returns where they failed.

        Raises:
            PassError: They don't come to an end.
        """
        for _ in range(_MOST_ROUNDS):
            # A value whose other users have just gone may match what it did not match before.
            report = rewrite(graph, rules, strict=False, nested=False)
            if not report.applied:
                return [
                    f"{self.name}: rule {name} failed {root.place()}: {skip.reason}; "
                    "the ops there stay as they were imported"
                    for name, root, skip in report.failures
                ]
        raise PassError(f"{self.name}: its rules don't come to an end in {_MOST_ROUNDS} rounds")


def raise_imported(graph: Graph, steps: Sequence[Pass]) -> None:
    """Runs passes over what a frontend has translated; what they fail in stays as it is.

    Where a pass fails or leaves an invalid graph, it is done with as many of its rules, in order,
    as do not; a pass of another kind is left out. The graph's diagnostics say so.

    Args:
        graph: The graph, which is changed in place.
        steps: The passes.
    """
    earlier = graph.copy()
    told, fault = _attempt(graph, lambda: [line for step in steps for line in _run(step, graph)])
    if fault is not None:
        graph.restore(earlier)
        told = [line for step in steps for line in _run_alone(step, graph)]
    graph.diagnostics += tuple(told)


def _run(step: Pass, graph: Graph) -> list[str]:
    context = Context()
    step.run_everywhere(graph, context)
    return context.diagnostics


def _run_alone(step: Pass, graph: Graph) -> list[str]:
    """Runs a pass as far as it leaves a valid graph; returns what there is to tell."""
    earlier = graph.copy()
    told, fault = _attempt(graph, lambda: _run(step, graph))
    if fault is None:
        return told
    if not isinstance(step, Raising):
        graph.restore(earlier)
        return [f"{step.name}: is left out, it failed: {fault}"]
    kept: tuple[Rule, ...] = ()
    left_out = []
    for rule in step.rules:
        trial = earlier.copy()
        _, found = _attempt(trial, partial(step.apply, trial, (*kept, rule)))
        if found is None:
            kept = (*kept, rule)
        else:
            left_out.append(f"{step.name}: rule {rule.name} is left out, it failed: {found}")
    graph.restore(earlier)
    return [*left_out, *step.apply(graph, kept)]


def _attempt(graph: Graph, work: Callable[[], list[str]]) -> tuple[list[str], str | None]:
    """Does some work on a graph; returns what that tells, and what is wrong with it, if so."""
    try:
        told = work()
        verify(graph)
    except Exception as error:  # any: none of them is a reason not to import
        return [], what_failed(error)
    return told, None
