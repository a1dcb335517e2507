"""Functions of one number, in floating point; on codes they are lookups."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla.lowering import floating, lowering
from qir.ir import Node
from qir.ops import (
    Abs,
    Ceil,
    Cos,
    Elu,
    Erf,
    Exp,
    Expm1,
    Floor,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Log,
    Log1p,
    Logistic,
    Mish,
    Neg,
    Reciprocal,
    Round,
    Rsqrt,
    Sign,
    Silu,
    Sin,
    Softplus,
    Sqrt,
    Square,
    Tanh,
)
from qir.ops.unary import Unary

FUNCTIONS: dict[type[Unary], Callable[[jax.Array], jax.Array]] = {
    Abs: jnp.abs,
    Ceil: jnp.ceil,
    Cos: jnp.cos,
    Erf: lax.erf,
    Exp: jnp.exp,
    Expm1: jnp.expm1,
    Floor: jnp.floor,
    HardSigmoid: lambda x: jnp.clip(x + 3, 0, 6) / 6,
    HardSwish: lambda x: x * (jnp.clip(x + 3, 0, 6) / 6),
    Log: jnp.log,
    Log1p: jnp.log1p,
    Logistic: jax.nn.sigmoid,
    Mish: lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    Neg: jnp.negative,
    Reciprocal: lambda x: 1 / x,
    Rsqrt: lax.rsqrt,
    Sign: jnp.sign,
    Silu: jax.nn.silu,
    Sin: jnp.sin,
    Softplus: jax.nn.softplus,
    Sqrt: jnp.sqrt,
    Square: jnp.square,
    Tanh: jnp.tanh,
}
"""The functions without attributes."""


def function(op: Unary, node: Node) -> Computation:
    """One function of `FUNCTIONS`."""
    return floating(node, FUNCTIONS[type(op)])


lowering(*FUNCTIONS)(function)


@lowering(Gelu)
def gelu(op: Gelu, node: Node) -> Computation:
    """Exact, or the tanh approximation."""
    return floating(node, lambda x: jax.nn.gelu(x, approximate=op.approximate))


@lowering(Elu)
def elu(op: Elu, node: Node) -> Computation:
    """The exponential sees no positive number, whose gradient could be infinite."""
    return floating(
        node, lambda x: jnp.where(x > 0, x, op.alpha * jnp.expm1(jnp.where(x > 0, 0, x)))
    )


@lowering(LeakyRelu)
def leaky_relu(op: LeakyRelu, node: Node) -> Computation:
    """A choice between x and slope * x."""
    return floating(node, lambda x: jnp.where(x > 0, x, op.slope * x))


@lowering(Round)
def rounded(op: Round, node: Node) -> Computation:
    """Halves to the even integer, or away from 0."""
    even, away = lax.RoundingMethod.TO_NEAREST_EVEN, lax.RoundingMethod.AWAY_FROM_ZERO
    return floating(node, lambda x: lax.round(x, even if op.ties == "even" else away))
