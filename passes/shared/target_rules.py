"""Rewrite rules that move casts, held to what a target computes on codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qir.ir import Builder, Value
from qir.ops import Quantize
from qir.ops.op import Op
from qir.ops.rules import SameCode
from qir.pipeline.rewrite import Outcome, Rule, Skip, rule
from qir.targets import Target


def within(rules: Iterable[Rule], target: Target | None) -> tuple[Rule, ...]:
    """Returns rules that put no move onto stored numbers that a target can't do there."""
    if target is None or target.integer_ops is None:
        return tuple(rules)
    return tuple(_held(each, target) for each in rules)


def _held(inner: Rule, target: Target) -> Rule:
    def apply(y: Value, b: Builder) -> Outcome:
        lacking = next((op for op in _moves(y) if not target.computes(op.name)), None)
        if lacking is not None:
            return Skip(f"target {target.name} has no {lacking.name} on codes", y)
        return inner.apply(y, b)

    apply.__name__ = inner.name
    return rule(*inner.ops, exactness=inner.exactness)(apply)


def _moves(root: Value) -> Iterator[Op]:
    """Yields the moves that end in a value, or that a quantize of them reads."""
    stack = [root.inputs[0] if isinstance(root.op, Quantize) else root]
    while stack:
        value = stack.pop()
        if value.op is not None and isinstance(value.op.quant, SameCode):
            yield value.op
            stack.extend(operand for operand in value.inputs if operand.type.is_float)
