"""Functions of one or two bytes by a table."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qir.backends.native.steps import Step
from qir.backends.xla.codes import table_entry
from qir.backends.xla.lowering import lowering
from qir.ir import Node
from qir.ops import Lookup


@lowering(Lookup)
def lookup(op: Lookup, node: Node) -> Step:
    """The table's entry for the bits of each stored number."""

    def run(x: jax.Array, table: jax.Array) -> jax.Array:
        return table_entry(table, x.astype(jnp.int32) & (table.shape[0] - 1))

    return Step(run, node.inputs)
