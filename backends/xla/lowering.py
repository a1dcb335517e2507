"""Lowerings: the ways in which XLA can compute an op, in a table keyed by the op's class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qir.backends.native.computation import Computation, Lowering, Parameter, always
from qir.errors import UnsupportedError
from qir.ir import Node
from qir.ops.op import Op, OpT
from qir.types import Array

LOWERINGS: dict[type[Op], list[Lowering]] = {}
"""The ways to compute each op, the preferred ones first."""


def never(op: Op, node: Node) -> bool:
    """Says no: a way to take only where it was measured to be the fastest."""
    return False


def coded(op: Op, node: Node) -> bool:
    """Whether an operand or result has a code, so that the op computes on stored numbers."""
    return any(value.type.quant is not None for value in (*node.inputs, *node.outputs))


def plain(op: Op, node: Node) -> bool:
    """Whether neither operands nor results have a code."""
    return not coded(op, node)


def lowering(
    *classes: type[OpT],
    legal: Callable[[OpT, Node], bool] = always,
    preferred: Callable[[OpT, Node], bool] = always,
    why_not: Callable[[OpT, Node], str] | None = None,
) -> Callable[[Callable[[OpT, Node], Computation]], Callable[[OpT, Node], Computation]]:
    """Declares a way to compute an op; the function's name is its name.

    The function gets the op and the node, which has the types of operands and results and the
    arrays of constant operands, and returns a computation. It runs once when a graph is compiled;
    only the function in that is traced. Ways of one op take the same platforms and give the same
    integers; they differ in speed.

    Args:
        classes: The classes of the ops that it computes.
        legal: Whether it computes this application of the op.
        preferred: Whether to take it where nothing was measured.
        why_not: Says of an application that is not legal what is wrong with it and what to do.
    """

    def declare(build: Callable[[OpT, Node], Computation]) -> Callable[[OpT, Node], Computation]:
        for cls in classes:
            way = Lowering(build.__name__, legal, preferred, build, why_not)
            LOWERINGS.setdefault(cls, []).append(way)
        return build

    return declare


def legal_ways(node: Node) -> list[Lowering]:
    """Returns the ways to compute a node, the one to take where nothing was measured first.

    Raises:
        UnsupportedError: There is none; the op and its place are named, and what is wrong with it
            where a way can tell.
    """
    ways = LOWERINGS.get(type(node.op), [])
    legal = [way for way in ways if way.legal(node.op, node)]
    if not legal:
        types = ", ".join(str(value.type) for value in node.inputs)
        problem = f"no lowering of {node.op.name}" + (f" for {types}" if ways else "")
        for way in ways:
            if way.why_not is not None:
                problem = way.why_not(node.op, node)
        raise UnsupportedError(f"xla: {problem}", [node.place()])
    return sorted(legal, key=lambda way: not way.preferred(node.op, node))


def floating(node: Node, function: Callable[..., jax.Array]) -> Computation:
    """Builds a computation in float32 and rounds once, as the reference does.

    Args:
        node: The node; all its operands are arguments.
        function: The function of float32 arrays; operands of other plain types come as they are.
    """
    return Computation(rounded_to(node.output.type.dtype.numpy, function), node.inputs)


def rounded_to(
    dtype: np.dtype[Any], function: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
    """Wraps a function: 16-bit floats are widened before it and its result is converted after."""

    def run(*operands: jax.Array) -> jax.Array:
        return function(*map(widened, operands)).astype(dtype)

    return run


def widened(x: jax.Array) -> jax.Array:
    """Returns float32 for floats of 16 bits, anything else as it is."""
    return x.astype(jnp.float32) if x.dtype in (jnp.float16, jnp.bfloat16) else x


def argument(name: str, array: Array) -> Parameter | Array:
    """Returns a literal for a scalar, a parameter for an array, so that programs stay small."""
    return np.asarray(array) if np.ndim(array) == 0 else Parameter(name, array)


def spread(factors: Array | jax.Array, shape: Sequence[int]) -> Array | jax.Array:
    """Stretches factors, one for each block, until they broadcast against a tensor."""
    if not isinstance(factors, jax.Array) or factors.ndim == 0:
        return factors
    for axis, (count, size) in enumerate(zip(factors.shape, shape, strict=True)):
        if count not in (1, size):
            factors = jnp.repeat(factors, size // count, axis=axis)
    return factors
