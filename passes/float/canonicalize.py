"""canonicalize: constants folded, equal ops merged, ops that change nothing dropped."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from qir.errors import QirError, counted
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.ops import (
    Add,
    Clip,
    Concat,
    Dequantize,
    Div,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Not,
    Relu,
    Reshape,
    Return,
    Sub,
    Transpose,
)
from qir.ops.op import Op
from qir.ops.reduce import Reduction
from qir.ops.rules import Coded
from qir.pipeline import Context, Pass, register
from qir.pipeline.rewrite import Rule, Skip, rewrite, rule
from qir.types import Array, Dim, TensorType, known


@register
class Canonicalize(Pass):
    """Computes what is constant, merges what is equal, drops what is unused or changes nothing.

    Real arithmetic is kept exactly, but for the sign of zero: constants are folded in float64 and
    rounded to their own type after each op, and integer ops by their exact meaning. A dequantize of
    constants stays, because folding it would store them wider than their code; so does quantize
    followed by dequantize, which rounds.

    Attributes:
        growth: Bytes by which a folded constant may be larger than those that it is made of.
    """

    growth: int = 65536

    name = "canonicalize"

    def check(self) -> None:
        if self.growth < 0:
            raise QirError(f"canonicalize: growth: expected at least 0, got {self.growth}")

    def run(self, graph: Graph, context: Context) -> None:
        names = Inheritance(graph)
        rewrite(graph, [constant_folding(self.growth), *IDENTITIES], allow=context.allow)
        merge_equal(graph)
        names.settle()


def constant_folding(growth: int) -> Rule:
    """Returns the rule that replaces ops of constants by their results.

    Args:
        growth: Bytes by which the results may be larger than the operands.
    """

    def fold_constants(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
        node = y.node
        if node is None or node.regions or not node.inputs:
            return None
        if not all(value.is_constant for value in node.inputs):
            return None
        if isinstance(node.op, Dequantize):
            return Skip("folding would store the numbers wider than their code", y)
        results = [value.type for value in node.outputs]
        if not all(isinstance(size, int) for type in results for size in type.shape):
            return Skip("the result has a named dimension", y)
        grown = sum(map(_bytes, results)) - sum(value.array.nbytes for value in node.inputs)
        if grown > growth:
            return Skip(f"the result would take {counted(grown, 'byte')} more than its operands", y)
        try:
            arrays = _compute(node)
        except QirError as error:
            return Skip(error.message, y)
        pairs = zip(node.outputs, arrays, strict=True)
        return [b.const(array, old.name, old.type.element) for old, array in pairs]

    return rule()(fold_constants)


def _bytes(type: TensorType) -> int:
    return known(type.size, "constant") * type.dtype.numpy.itemsize


def _compute(node: Node) -> list[Array]:
    """Computes an op of constants: in integers where one has a code, else reals in float64."""
    with np.errstate(all="ignore"):
        if any(value.type.quant for value in (*node.inputs, *node.outputs)):
            operands = [Coded(value.array, value.type) for value in node.inputs]
            found = node.op.integer(operands, node.outputs[0].type)
        else:
            found = node.op.evaluate(*map(_wide, node.inputs))
        arrays = found if isinstance(found, tuple) else (found,)
        return [
            np.asarray(array).astype(value.type.dtype.numpy)
            for array, value in zip(arrays, node.outputs, strict=True)
        ]


def _wide(constant: Value) -> Array:
    return constant.array.astype(np.float64) if constant.type.is_float else constant.array


def merge_equal(graph: Graph) -> None:
    """Merges ops that are equal and read the same values, and constants with the same content.

    One walk in order, so that users of merged values merge too; each region by itself.
    """
    seen: dict[Hashable, Node] = {}
    for node in graph.nodes:
        for region in node.regions:
            merge_equal(region)
        if node.regions or isinstance(node.op, Return):
            continue
        first = seen.setdefault(_key(node), node)
        if first is not node:
            for old, new in zip(node.outputs, first.outputs, strict=True):
                old.replace_with(new)
            graph.erase(node)


def _key(node: Node) -> Hashable:
    """Returns what equal nodes have in common."""
    return node.op, node.inputs, tuple(value.type for value in node.outputs)


@rule()
def constant_second(y: Value, b: Builder) -> Value | None:
    """C + x -> x + c; so for the other commutative ops."""
    match y:
        case Value(Op() as op, [left, right]) if left.is_constant and not right.is_constant:
            swapped = op.swapped()
            return None if swapped is None else b.emit(swapped, right, left)
        case _:
            return None


@rule(Add, Sub, Mul, Div)
def drop_neutral(y: Value, b: Builder) -> Value | None:
    """X + 0, x - 0, x * 1, x / 1 -> x; of -0 + 0 the sign is not kept."""
    match y:
        case Value(op, [x, constant]) if constant.is_constant and x.type == y.type:
            neutral = 0 if isinstance(op, Add | Sub) else 1
            if x.type.quant is None and np.all(constant.array == neutral):
                return x
        case _:
            pass
    return None


@rule(Neg, Not)
def drop_double_negation(y: Value, b: Builder) -> Value | None:
    """-(-x) -> x; so for not."""
    match y:
        case Value(Neg(), [Value(Neg(), [x])]) | Value(Not(), [Value(Not(), [x])]):
            return x
        case _:
            return None


@rule(Maximum, Minimum)
def extremum_to_clip(y: Value, b: Builder) -> Value | None:
    """max(x, c) -> clip(x, c, inf) where c is one number; so for min."""
    match y:
        case Value(op, [x, c]) if c.is_constant and x.type == y.type and x.type.is_float:
            if not c.array.size or not np.all(c.array == c.array.flat[0]):
                return None
            bound = float(c.array.flat[0])
            return b.emit(
                Clip(bound, np.inf) if isinstance(op, Maximum) else Clip(-np.inf, bound), x
            )
        case _:
            return None


@rule(Relu, Clip)
def compose_clips(y: Value, b: Builder) -> Value | None:
    """clip(clip(x)) -> clip(x) with the bounds of both; relu is the clip at 0."""
    match y:
        case Value(Relu() | Clip() as outer, [Value(Relu() | Clip() as first, [x]) as inner]):
            bounds = [float(np.clip(bound, *_bounds(outer))) for bound in _bounds(first)]
            if tuple(bounds) == _bounds(first):
                return inner
            return b.emit(Clip(*bounds), x)
        case _:
            return None


def _bounds(op: Relu | Clip) -> tuple[float, float]:
    return (op.low, op.high) if isinstance(op, Clip) else (0.0, np.inf)


@rule(Clip)
def simplify_clip(y: Value, b: Builder) -> Value | None:
    """clip(x, -inf, inf) -> x; clip(x, 0, inf) -> relu(x)."""
    match y:
        case Value(Clip(low=low, high=high), [x]) if high == np.inf:
            if low == -np.inf:
                return x
            return b.emit(Relu(), x) if low == 0 else None
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


@rule(Transpose)
def compose_transposes(y: Value, b: Builder) -> Value | None:
    """transpose(transpose(x)) -> one transpose of x; one that moves nothing -> x."""
    match y:
        case Value(Transpose(permutation=order), [x]) if order == tuple(range(len(order))):
            return x
        case Value(Transpose(permutation=last), [Value(Transpose(permutation=first), [x])]):
            return b.emit(Transpose(tuple(first[axis] for axis in last)), x)
        case _:
            return None


@rule(Reshape)
def compose_reshapes(y: Value, b: Builder) -> Value | None:
    """reshape(reshape(x)) -> reshape(x)."""
    match y:
        case Value(Reshape() as op, [Value(Reshape(), [x])]):
            return b.emit(op, x)
        case _:
            return None


@rule(Transpose)
def transpose_to_reshape(y: Value, b: Builder) -> Value | None:
    """transpose(x) -> reshape(x) where only axes of size 1 change places."""
    match y:
        case Value(Transpose(permutation=order), [x]) if x.type.quant is None:
            moved = [axis for axis in order if x.type.shape[axis] != 1]
            if _can_reshape_to(y.type) and moved == sorted(moved):
                return b.emit(Reshape(y.type.shape), x)
        case _:
            pass
    return None


def _can_reshape_to(type: TensorType) -> bool:
    """Whether the sizes of a reshape to a type can be told from an array alone."""
    return sum(isinstance(size, Dim) for size in type.shape) <= 1


@rule(Reduction)
def reduction_to_reshape(y: Value, b: Builder) -> Value | None:
    """mean(x) -> reshape(x) over axes of size 1; so for sum, max and min."""
    match y:
        case Value(Reduction() as op, [x]) if x.type.quant is None and _can_reshape_to(y.type):
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
