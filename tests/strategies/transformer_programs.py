"""Float programs with what transformers and their relatives are made of, and rarer functions."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
from hypothesis import strategies as st

from qir.errors import QirError
from qir.ir import Graph, Value
from qir.ops import (
    Abs,
    Add,
    Clip,
    Concat,
    Div,
    Dot,
    Embedding,
    Exp,
    Expm1,
    Gather,
    GroupNorm,
    L2Norm,
    LayerNorm,
    Log,
    Log1p,
    Maximum,
    Mean,
    Mul,
    Pow,
    Reciprocal,
    ReduceMax,
    ReduceSum,
    Relu,
    Reshape,
    RmsNorm,
    Rsqrt,
    Select,
    Silu,
    Slice,
    Softmax,
    Softplus,
    Split,
    Sqrt,
    Square,
    Sub,
    Transpose,
)
from qir.ops.normalization import Guard
from qir.ops.op import Op
from qir.ops.softmax import MaskedRows
from qir.types import Dim, DType, Size, TensorType
from qir.types import known as known_size
from tests.strategies.base import Draw
from tests.strategies.float_programs import (
    LAYERS,
    FloatCase,
    FloatNetwork,
    Layer,
    combine,
    dot,
    float_programs,
    other,
    unary,
)


def scalar(net: FloatNetwork, *choices: float) -> Value:
    """Adds a constant of no dimensions."""
    return net.builder.const(np.asarray(net.draw(st.sampled_from(choices)), np.float64), "k")


def mask(net: FloatNetwork, shape: tuple[int, ...]) -> Value:
    """Adds a mask, a constant or an input, most often one that keeps something in each row."""
    cut = net.draw(st.integers(0, len(shape) - 1))
    sizes = tuple(net.draw(st.sampled_from([1, size, size])) for size in shape[cut:])
    shown = net.rng.random(sizes) < 0.6
    if net.draw(st.integers(0, 3)):
        shown[..., 0] = True
    if net.draw(st.booleans()):
        return net.builder.const(shown, "mask", DType.BOOL)
    net.inputs = (*net.inputs, shown)
    return net.graph.add_input("shown", TensorType(sizes, DType.BOOL))


def masked(net: FloatNetwork, scores: Value) -> Value:
    """Masks scores in one of the ways that models do, or not at all."""
    kind = net.draw(st.sampled_from(["none", "select", "select", "add", "add input"]))
    shape, large = scores.type.known_shape, (-1e4, -1e9, -3e38)
    if kind == "none":
        return scores
    if kind == "select":
        return net.emit(Select(), mask(net, shape), scores, scalar(net, *large))
    hidden = np.where(net.rng.random(shape[-2:]) < 0.4, net.draw(st.sampled_from(large)), 0.0)
    hidden[..., 0] = 0
    if kind == "add":
        return net.emit(Add(), scores, net.builder.const(hidden, "mask"))
    net.inputs = (*net.inputs, hidden)
    return net.emit(
        Add(), scores, net.graph.add_input("hidden", TensorType(hidden.shape, DType.F64))
    )


def softmax(net: FloatNetwork) -> Value:
    """Adds a softmax along one axis or two, most often the last, some with a mask of their own."""
    rank = len(net.shape)
    axes = net.draw(st.sets(st.integers(0, rank - 1), min_size=1, max_size=2))
    axes = net.draw(st.sampled_from([{rank - 1}, axes]))
    if net.draw(st.booleans()):
        return net.emit(Softmax(tuple(sorted(axes))), masked(net, net.last))
    rows: MaskedRows = net.draw(st.sampled_from(["uniform", "unmasked"]))
    return net.emit(Softmax(tuple(sorted(axes)), rows), net.last, mask(net, net.shape))


def spelled_softmax(net: FloatNetwork) -> Value:
    """Adds a logarithm of a softmax, guarded in one of the ways that models do, or one beside 1."""
    axes = (net.draw(st.integers(0, len(net.shape) - 1)),)
    x = net.emit(Clip(-20.0, 10.0), net.last)
    if net.draw(st.booleans()):
        powers = net.emit(Exp(), x)
        total = net.emit(ReduceSum(axes, True), powers)
        return net.emit(Div(), powers, net.emit(Add(), total, scalar(net, 1.0)))
    shares = net.emit(Softmax(axes), x)
    epsilon = scalar(net, 1e-9, 1e-6, 1e-3)
    kind = net.draw(st.sampled_from(["none", "add", "maximum"]))
    if kind != "none":
        shares = net.emit(Add() if kind == "add" else Maximum(), shares, epsilon)
    return net.emit(Log(), shares)


def factors_of(net: FloatNetwork) -> list[Value]:
    """Adds gamma and beta for channels, or gamma alone, or nothing."""
    count = net.draw(st.integers(0, 2))
    return [net.const(net.numbers(net.shape[-1])) for _ in range(count)]


def norm(net: FloatNetwork) -> Value:
    rank, channels = len(net.shape), net.shape[-1]
    axes = net.draw(st.sets(st.integers(0, rank - 1), min_size=1, max_size=2))
    chosen = tuple(sorted(net.draw(st.sampled_from([{rank - 1}, axes]))))
    epsilon = net.draw(st.sampled_from([1e-6, 1e-3, 0.1]))
    guard: Guard = net.draw(st.sampled_from(get_args(Guard)))
    ops: list[Op] = [cls(chosen, epsilon, guard) for cls in (LayerNorm, RmsNorm, L2Norm)]
    if rank > 1:
        groups = net.draw(st.sampled_from([size for size in (1, 2, 3) if channels % size == 0]))
        ops.append(GroupNorm(groups, epsilon, guard))
    return net.emit(net.draw(st.sampled_from(ops)), net.last, *factors_of(net))


def spelled_norm(net: FloatNetwork) -> Value:
    """Adds a norm of the last axis in the ops that models spell it in."""
    x, axis = net.last, (len(net.shape) - 1,)
    centred, squares = x, net.emit(Square(), x)
    if net.draw(st.booleans()):
        mean = net.emit(Mean(axis, True), x)
        centred = net.emit(Sub(), x, mean)
        if net.draw(st.booleans()):
            squares = net.emit(Mul(), centred, centred)
            variance = net.emit(Mean(axis, True), squares)
        else:
            variance = net.emit(
                Sub(), net.emit(Mean(axis, True), squares), net.emit(Square(), mean)
            )
    else:
        variance = net.emit(Mean(axis, True), squares)
    kind = net.draw(st.sampled_from(["add", "add", "max", "root"]))
    if kind != "root":
        join = Add() if kind == "add" else Maximum()
        variance = net.emit(join, variance, scalar(net, 1e-6, 1e-3))
    if kind == "root":
        root = net.emit(Sqrt(), net.emit(Relu(), variance))
        y = net.emit(Div(), centred, net.emit(Add(), root, scalar(net, 1e-6, 1e-3)))
    elif net.draw(st.booleans()):
        y = net.emit(Mul(), centred, net.emit(Rsqrt(), variance))
    else:
        y = net.emit(Div(), centred, net.emit(Sqrt(), variance))
    for op, factor in zip((Mul(), Add()), factors_of(net), strict=False):
        y = net.emit(op, y, factor)
    return y


def embedding(net: FloatNetwork) -> Value:
    """Adds rows of a table by indices that are given, and the last value where that fits."""
    rows = net.draw(st.integers(1, 9))
    ids = net.rng.integers(0, rows, net.shape[:-1]).astype(np.int32)
    table = net.builder.const(net.numbers(rows, net.shape[-1]), "table")
    if net.draw(st.integers(0, 3)) == 0:
        sizes = np.exp2(net.rng.uniform(-8, 8, (rows, 1)))
        table = net.builder.const(table.array * sizes, "table")
    net.inputs = (*net.inputs, ids)
    found = net.emit(
        Embedding(), table, net.graph.add_input("ids", TensorType(ids.shape, DType.I32))
    )
    return net.emit(Add(), found, net.last) if net.draw(st.booleans()) else found


def positive(net: FloatNetwork, x: Value) -> Value:
    """Makes numbers positive, some close to zero."""
    kind = net.draw(st.sampled_from([Abs(), Square(), Softplus(), Exp()]))
    if isinstance(kind, Exp):
        x = net.emit(Clip(-8.0, 4.0), x)
    return net.emit(Add(), net.emit(kind, x), scalar(net, 1e-5, 0.01, 0.5, 4.0))


def quotient(net: FloatNetwork) -> Value:
    divisor = positive(net, other(net))
    if net.draw(st.booleans()):
        axis = net.draw(st.integers(0, len(net.shape) - 1))
        divisor = net.emit(
            net.draw(st.sampled_from([ReduceSum, Mean, ReduceMax]))((axis,), True), divisor
        )
    operands = [net.last, divisor]
    return net.emit(Div(), *operands)


def function(net: FloatNetwork) -> Value:
    """Adds a function that is not defined, or grows without bound, at some numbers."""
    kind = net.draw(st.sampled_from(["positive", "positive", "bounded", "power", "any"]))
    if kind == "positive":
        op: Op = net.draw(st.sampled_from([Log(), Sqrt(), Rsqrt(), Reciprocal(), Log1p()]))
        return net.emit(op, positive(net, net.last))
    if kind == "bounded":
        high = net.draw(st.sampled_from([0.0, 4.0, 10.0]))
        clipped = net.emit(Clip(-20.0, high), net.last)
        return net.emit(net.draw(st.sampled_from([Exp(), Expm1()])), clipped)
    if kind == "power":
        return net.emit(Pow(), positive(net, net.last), scalar(net, -1.0, 0.5, 1.5, 3.0))
    return net.emit(net.draw(st.sampled_from([Softplus(), Silu(), Square(), Abs()])), net.last)


def attention_block(net: FloatNetwork) -> Value | None:
    """Adds attention of queries, keys and values of one product or of three, and what it joins."""
    rank = len(net.shape)
    if rank not in (2, 3):
        return None
    x, width, batch = net.last, net.draw(st.integers(1, 4)), rank - 2
    if net.draw(st.booleans()):
        fused = net.emit(Dot(), x, net.const(net.numbers(net.shape[-1], 3 * width)))
        queries, keys, values = net.builder.emit_node(
            Split(rank - 1, (width,) * 3), [fused]
        ).outputs
    else:
        queries, keys, values = (
            net.emit(Dot(), x, net.const(net.numbers(net.shape[-1], width))) for _ in range(3)
        )
    turned = net.emit(Transpose((*range(batch), rank - 1, rank - 2)), keys)
    scores = net.emit(Dot(batch=batch), queries, turned)
    scores = net.emit(Mul(), scores, scalar(net, 1.0, width**-0.5, 0.1))
    shares = net.emit(Softmax((rank - 1,)), masked(net, scores))
    context = net.emit(Dot(batch=batch), shares, values)
    y = net.emit(Dot(), context, net.const(net.numbers(width, net.shape[-1])))
    return net.emit(Add(), y, x) if net.draw(st.booleans()) else y


def residual_norm(net: FloatNetwork) -> Value:
    """Adds what a block of a transformer does behind attention."""
    x, channels = net.last, net.shape[-1]
    inner = net.emit(Dot(), x, net.const(net.numbers(channels, 2 * channels)))
    net.last = inner
    inner = unary(net)
    net.last = x
    y = net.emit(Dot(), inner, net.const(net.numbers(2 * channels, channels)))
    total = net.emit(Add(), x, y)
    axes, epsilon = (len(net.shape) - 1,), 1e-5
    op = net.draw(st.sampled_from([LayerNorm(axes, epsilon), RmsNorm(axes, epsilon)]))
    return net.emit(op, total, *factors_of(net))


def parts(net: FloatNetwork) -> Value | None:
    """Cuts the last axis into parts, scales one up or down, and joins them again."""
    channels, axis = net.shape[-1], len(net.shape) - 1
    if channels < 2:
        return None
    first = net.draw(st.integers(1, channels - 1))
    pieces = list(net.builder.emit_node(Split(axis, (first, channels - first)), [net.last]).outputs)
    factor = scalar(net, 0.01, 1.0, 30.0, 1000.0)
    pieces[0] = net.emit(Mul(), pieces[0], factor)
    joined = net.emit(Concat(axis), *net.draw(st.permutations(pieces)))
    net.last = joined
    return dot(net) if net.draw(st.booleans()) else joined


def far(net: FloatNetwork) -> Value:
    """Moves numbers far from zero."""
    return net.emit(net.draw(st.sampled_from([Add(), Sub()])), net.last, scalar(net, 20.0, 300.0))


def choose(net: FloatNetwork) -> Value:
    """Takes some places of an axis, by indices or from a start on."""
    axis = net.draw(st.integers(0, len(net.shape) - 1))
    size = net.shape[axis]
    if net.draw(st.booleans()):
        start = net.draw(st.integers(0, size - 1))
        return net.emit(Slice((axis,), (start,), (size,)), net.last)
    indices = net.rng.integers(0, size, net.draw(st.integers(1, 4))).astype(np.int32)
    return net.emit(Gather(axis), net.last, net.builder.const(indices, "indices", DType.I32))


def chosen(net: FloatNetwork) -> Value:
    """Takes numbers of one of two values by a mask."""
    return net.emit(Select(), mask(net, net.shape), net.last, other(net))


NEWER: list[Layer] = [
    softmax, spelled_softmax, norm, spelled_norm, embedding, quotient, function, function,
    attention_block, attention_block, residual_norm, parts, far, choose, chosen, dot, unary,
    combine,
]  # fmt: skip


def with_named_batch(case: FloatCase) -> FloatCase:
    """Calls the leading dimension of the inputs B; raises QirError where an op forbids that."""
    batch = case.graph.inputs[0].type.known_shape[0]
    name = Dim.named("B")
    graph = Graph(case.graph.name)
    known: dict[Value, Value] = {}
    for value in case.graph.inputs:
        shape: tuple[Size, ...] = value.type.known_shape
        named = (name, *shape[1:]) if shape and shape[0] == batch else shape
        known[value] = graph.add_input(value.name, value.type.with_shape(*named))
    builder = graph.at_end()
    for node in case.graph.nodes:
        if not node.outputs:
            continue
        if (value := node.outputs[0]).is_constant:
            known[value] = builder.const(value.array, value.name, value.type.element)
            continue
        op, operands = node.op, [known[value] for value in node.inputs]
        if isinstance(op, Reshape) and isinstance(operands[0].type.shape[0], Dim):
            first = known_size(op.shape[0], "the batch")
            if first % batch:
                raise QirError("the batch does not lead the result")
            op = replace(op, shape=(name * (first // batch), *op.shape[1:]))
        known.update(zip(node.outputs, builder.emit_node(op, operands).outputs, strict=True))
    graph.set_outputs([known[value] for value in case.graph.outputs])
    return FloatCase(graph, case.inputs)


@st.composite
def transformer_programs(draw: Draw) -> FloatCase:
    """Draws networks of all layers, half of them with a named batch where their ops allow it."""
    layers = draw(st.sampled_from([NEWER, [*NEWER, *LAYERS]]))
    case = draw(float_programs(layers))
    if draw(st.booleans()):
        try:
            return with_named_batch(case)
        except QirError:
            pass
    return case
