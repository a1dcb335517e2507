"""canonicalize: constants folded, equal ops merged, what changes nothing or is unread dropped."""

from __future__ import annotations

from collections.abc import Hashable

from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.ops import (
    Concat,
    Neg,
    Not,
    Reshape,
    Return,
)
from qir.ops.op import Op
from qir.ops.reduce import Reduction
from qir.passes.shared.constant_folding import constant_folding
from qir.passes.shared.identities import (
    can_reshape_to,
    compose_clips,
    compose_reshapes,
    compose_transposes,
    constant_second,
    drop_neutral,
    extremum_to_clip,
    kernel_second,
    simplify_clip,
    transpose_to_reshape,
)
from qir.passes.shared.invariants import hoist_invariants
from qir.passes.shared.region_identities import REGION_IDENTITIES, are_alike
from qir.pipeline import Context, Pass, register
from qir.pipeline.rewrite import Skip, rewrite, rule


@register
class Canonicalize(Pass):
    """Computes what is constant, merges what is equal, drops what is unused or changes nothing.

    Real arithmetic is kept exactly, but for the sign of zero: constants are folded in float64 and
    rounded to their own type after each op, and integer ops by their exact meaning. A dequantize of
    constants stays, because folding it would store them wider than their code; so does quantize
    followed by dequantize, which rounds.

    What a loop would compute anew in each trip is computed before it, constants are held by the
    regions that read them, and what goes through a loop or branch unread or unchanged does so no
    more. A branch that is known to run, the body of a scan of one trip and the initial values of a
    loop without any take the place of the op.

    Attributes:
        growth: Bytes by which a folded constant may be larger than those that it is made of.
    """

    growth: int = 65536

    name = "canonicalize"
    whole_program = True

    def check(self) -> None:
        if self.growth < 0:
            raise QirError(f"canonicalize: growth: expected at least 0, got {self.growth}")

    def run(self, graph: Graph, context: Context) -> None:
        self._settle(graph, context, {})

    def _settle(self, graph: Graph, context: Context, settled: dict[Graph, int]) -> None:
        """Canonicalizes a graph and its regions, until what is handed in changes none of these."""
        names = Inheritance(graph)
        rules = [constant_folding(self.growth), *IDENTITIES, *REGION_IDENTITIES, hoist_invariants]
        while True:
            for region in (region for node in graph.nodes for region in node.regions):
                if settled.get(region) != region.revision:
                    self._settle(region, context, settled)
            rewrite(graph, rules, allow=context.allow, nested=False)
            merge_equal(graph)
            if all(
                settled.get(region) == region.revision
                for node in graph.nodes
                for region in node.regions
            ):
                break
        names.settle()
        settled[graph] = graph.revision


def merge_equal(graph: Graph) -> None:
    """Merges ops that are equal and read the same values, and constants with the same content.

    One walk in order, so that users of merged values merge too.
    """
    seen: dict[Hashable, Node] = {}
    for node in graph.nodes:
        if isinstance(node.op, Return):
            continue
        first = seen.setdefault(_key(node), node)
        if first is not node and all(map(are_alike, first.regions, node.regions)):
            for old, new in zip(node.outputs, first.outputs, strict=True):
                old.replace_with(new)
            graph.erase(node)


def _key(node: Node) -> Hashable:
    """Returns what equal nodes have in common."""
    return node.op, node.inputs, tuple(value.type for value in node.outputs), len(node.regions)


@rule(Neg, Not)
def drop_double_negation(y: Value, b: Builder) -> Value | None:
    """-(-x) -> x; so for not."""
    match y:
        case Value(Neg(), [Value(Neg(), [x])]) | Value(Not(), [Value(Not(), [x])]):
            return x
        case _:
            return None


@rule()
def drop_idle(y: Value, b: Builder) -> Value | None:
    """Drops ops whose attributes say that every number stays where and what it is."""
    match y:
        case Value(Op() as op, [x, *_]) if x.type == y.type:
            return x if op.is_idle([value.type for value in y.inputs], [y.type]) else None
        case _:
            return None


@rule(Reduction)
def reduction_to_reshape(y: Value, b: Builder) -> Value | None:
    """mean(x) -> reshape(x) over axes of size 1; so for sum, max and min."""
    match y:
        case Value(Reduction() as op, [x]) if x.type.quant is None and can_reshape_to(y.type):
            return b.emit(Reshape(y.type.shape), x) if op.is_idle([x.type], [y.type]) else None
        case _:
            return None


@rule(Concat)
def flatten_concat(y: Value, b: Builder) -> Value | Skip | None:
    """concat(x) -> x; concat(concat(a, b), c) -> concat(a, b, c)."""
    match y:
        case Value(Concat(), [x]):
            return x
        case Value(Concat(axis=axis) as op, operands):
            inner = [x for x in operands if isinstance(x.op, Concat) and x.op.axis == axis]
            if not inner:
                return None
            if shared := next((x for x in inner if len(x.uses) > 1), None):
                return Skip("the inner concat has another user", shared)
            parts = [part for x in operands for part in (x.inputs if x in inner else (x,))]
            return b.emit(op, *parts)
        case _:
            return None


IDENTITIES = (
    constant_second,
    kernel_second,
    drop_neutral,
    drop_double_negation,
    extremum_to_clip,
    compose_clips,
    simplify_clip,
    compose_transposes,
    compose_reshapes,
    transpose_to_reshape,
    reduction_to_reshape,
    flatten_concat,
    drop_idle,
)
