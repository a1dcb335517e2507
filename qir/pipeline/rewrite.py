"""Rewriting: rules are functions with a `match` statement, applied until none of them fires."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from qir.errors import PassError, QirError, counted, kind_of, what_failed
from qir.ir import Builder, Graph, Node, Value
from qir.ir.revisions import CLOCK
from qir.ops.core import Return
from qir.ops.op import Op

Exactness: TypeAlias = Literal["exact", "within_1lsb"]
"""What a rewrite keeps: all numbers (real ones, or the bits of integers), or all but one step."""


@dataclass(frozen=True, eq=False)
class Skip:
    """What a rule returns when it nearly matched: why it did not fire.

    Args:
        reason: The reason, as a clause.
        value: The value that stood in the way.
        failed: Whether the rule raised an error instead.
    """

    reason: str
    value: Value | None = None
    failed: bool = False


Outcome: TypeAlias = Value | Sequence[Value] | Skip | None
RuleFunction: TypeAlias = Callable[[Value, Builder], Outcome]


@dataclass(frozen=True, eq=False)
class Rule:
    """A rewrite of one kind of op.

    Attributes:
        name: The function's name.
        ops: The op classes of the root; empty for every op.
        exactness: What the rewrite keeps.
        apply: `apply(root, builder)` returns the value (or all values) to use instead; the root
            itself when it changed the node in place; a Skip; or None.
    """

    name: str
    ops: tuple[type[Op], ...]
    exactness: Exactness
    apply: RuleFunction


def rule(*ops: type[Op], exactness: Exactness = "exact") -> Callable[[RuleFunction], Rule]:
    """Declares a rewrite rule.

    The function gets a node's first result and a builder that inserts before the node.

    Args:
        ops: Op classes of the root.
        exactness: What the rewrite keeps.
    """

    def declare(function: RuleFunction) -> Rule:
        return Rule(function.__name__, ops, exactness, function)

    return declare


@dataclass
class Report:
    """What a run of the driver did.

    Attributes:
        applied: How often each rule fired, by name.
        skips: The near misses that are left: rule name, root and last reason.
    """

    applied: Counter[str] = field(default_factory=Counter)
    skips: list[tuple[str, Value, Skip]] = field(default_factory=list)

    @property
    def failures(self) -> list[tuple[str, Value, Skip]]:
        """Those of the near misses that are errors."""
        return [miss for miss in self.skips if miss[2].failed]

    def __str__(self) -> str:
        fired = [
            f"{name}: {counted(count, 'time')}" for name, count in sorted(self.applied.items())
        ]
        missed = [
            f"{name}: %{root.name} ({skip.reason}{f', %{skip.value.name}' if skip.value else ''})"
            for name, root, skip in self.skips
        ]
        return "\n".join([*fired, *missed])


def rewrite(
    graph: Graph,
    rules: Iterable[Rule],
    *,
    allow: Exactness = "exact",
    strict: bool = True,
    nested: bool = True,
) -> Report:
    """Applies rules everywhere, regions included, until none fires; nodes that end up unused go.

    Args:
        graph: The graph to change.
        rules: Tried in order at every node.
        allow: The least exactness that rules may have.
        strict: Whether an error of a rule ends the rewriting; otherwise the rule does not fire
            there, and the error is among the near misses, unless the rule has edited already.
        nested: Whether regions are rewritten too; a pass that is run for each of them has no need.

    Returns:
        What fired and what nearly did.

    Raises:
        PassError: A rule is less exact than allowed, or the rules don't come to an end.
        QirError: A rule failed, and `strict` holds or it has edited more than what it built.
    """
    rules = tuple(rules)
    _check_exactness(rules, allow)
    by_op: dict[type[Op], tuple[Rule, ...]] = {}
    report = Report()
    skips: dict[tuple[str, Value], Skip] = {}
    queue = deque(graph.walk() if nested else graph.nodes)
    queued = set(queue)
    budget = 64 * len(queue) + 1000

    def push(nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node not in queued and not node.erased:
                queued.add(node)
                queue.append(node)

    def drop(node: Node) -> None:
        node.graph.erase(node)
        push(value.node for value in node.inputs if value.node)
        for value in node.inputs:
            if len(value.uses) == 1:  # what rules often ask for
                push(value.users)

    while queue:
        node = queue.popleft()
        queued.discard(node)
        if node.erased or isinstance(node.op, Return):
            continue
        if not any(value.uses for value in node.outputs):
            drop(node)
            continue
        kind = type(node.op)
        if kind not in by_op:
            by_op[kind] = tuple(each for each in rules if issubclass(kind, each.ops or Op))
        for candidate in by_op[kind]:
            builder = node.graph.before(node)
            start = next(CLOCK)
            try:
                outcome = _apply(candidate, node, builder)
            except Exception as error:
                if strict:
                    raise
                if next(CLOCK) - start - 1 != len(builder.emitted):
                    raise PassError(
                        f"rewrite: rule '{candidate.name}' failed when it had edited already: "
                        f"{what_failed(error)}",
                        [node.place()],
                    ) from error
                outcome = Skip(what_failed(error), failed=True)
            miss = candidate.name, node.outputs[0]
            skips.pop(miss, None)
            if isinstance(outcome, Skip):
                skips[miss] = outcome
            if outcome is None or isinstance(outcome, Skip):
                for emitted in reversed(builder.emitted):
                    if not any(value.uses for value in emitted.outputs):
                        node.graph.erase(emitted)
                continue
            report.applied[candidate.name] += 1
            if report.applied.total() > budget:
                name, count = report.applied.most_common(1)[0]
                raise PassError(
                    f"rewrite: rules don't come to an end; '{name}' fired {count} times",
                    [node.place()],
                )
            push(builder.emitted)
            push(outcome)
            # A dead node that waited in the queue would still count among its operands' readers.
            if not any(value.uses for value in node.outputs):
                drop(node)
            else:
                push([*(value.node for value in node.inputs if value.node), node])
            break
    report.skips = [
        (name, root, skip)
        for (name, root), skip in skips.items()
        if root.node is not None and not root.node.erased
    ]
    return report


def _check_exactness(rules: Iterable[Rule], allow: Exactness) -> None:
    for candidate in rules:
        if candidate.exactness == "within_1lsb" and allow == "exact":
            raise PassError(
                f"rewrite: '{candidate.name}' is within 1 LSB, not exact; "
                "allow it by allow(within_1lsb) in the pipeline"
            )


def _apply(candidate: Rule, node: Node, builder: Builder) -> tuple[Node, ...] | Skip | None:
    """Applies a rule to a node; returns the readers of its results where the rule fired."""
    root = node.outputs[0]
    try:
        outcome = candidate.apply(root, builder)
        if outcome is None or isinstance(outcome, Skip):
            return outcome
        # A rule may be the user's: what it returns need not be what it says.
        values: Any = (outcome,) if isinstance(outcome, Value) else outcome
        if not isinstance(values, Sequence) or not all(isinstance(x, Value) for x in values):
            raise PassError(
                f"rewrite: expected a value, a Skip or None from '{candidate.name}', got "
                f"{kind_of(outcome)}"
            )
        if len(values) != len(node.outputs):
            raise PassError(
                f"rewrite: expected {counted(len(node.outputs), 'value')} from '{candidate.name}', "
                f"got {len(values)}"
            )
        readers = tuple(reader for value in node.outputs for reader in value.users)
        for old, new in zip(node.outputs, values, strict=True):
            old.replace_with(new)
            if new.node is not None and type(new.node.op) is type(node.op):
                new.node.note = new.node.note or node.note
        return readers
    except QirError as error:
        raise error.at(node.place()).at(f"in rule {candidate.name}") from error
    except Exception as error:
        error.add_note(f"in rule {candidate.name} {node.place()}")
        raise


def near_misses(graph: Graph, candidate: Rule) -> list[str]:
    """Says where a rule does not fire and why, one line a place; the graph stays as it is."""
    lines = []
    copy = graph.copy()
    for node in list(copy.walk()):
        if isinstance(node.op, candidate.ops or Op) and node.outputs and not node.erased:
            outcome = candidate.apply(node.outputs[0], node.graph.before(node))
            if isinstance(outcome, Skip):
                about = f" (%{outcome.value.name})" if outcome.value else ""
                lines.append(f"{candidate.name}: {outcome.reason}{about}, {node.place()}")
    return lines
