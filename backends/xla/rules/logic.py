"""Comparisons, masks and the choice between two tensors, all on stored numbers."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qir.backends.native.computation import Computation
from qir.backends.xla.lowering import lowering
from qir.ir import Node
from qir.ops import (
    And,
    Equal,
    Greater,
    GreaterEqual,
    IsFinite,
    Less,
    LessEqual,
    Not,
    NotEqual,
    Or,
    Select,
)
from qir.ops.op import Op

FUNCTIONS: dict[type[Op], Callable[..., jax.Array]] = {
    And: jnp.logical_and,
    Equal: jnp.equal,
    Greater: jnp.greater,
    GreaterEqual: jnp.greater_equal,
    IsFinite: jnp.isfinite,
    Less: jnp.less,
    LessEqual: jnp.less_equal,
    Not: jnp.logical_not,
    NotEqual: jnp.not_equal,
    Or: jnp.logical_or,
    Select: jnp.where,
}
"""What each op is, in the operands' own types."""


@lowering(*FUNCTIONS)
def function(op: Op, node: Node) -> Computation:
    """One function of `FUNCTIONS`."""
    return Computation(FUNCTIONS[type(op)], node.inputs)
