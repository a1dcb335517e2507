"""Functions of one or two bytes by a table."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qir.backends.native.computation import Computation
from qir.backends.xla.codes import table_entry
from qir.backends.xla.lowering import lowering
from qir.ir import Node
from qir.ops import Lookup, Lookup2


@lowering(Lookup)
def lookup(op: Lookup, node: Node) -> Computation:
    """The table's entry for the bits of each stored number."""

    def run(x: jax.Array, table: jax.Array) -> jax.Array:
        return table_entry(table, x.astype(jnp.int32) & (table.shape[0] - 1))

    return Computation(run, node.inputs)


@lowering(Lookup2)
def lookup2(op: Lookup2, node: Node) -> Computation:
    """The table's entry for both bytes, as one number of 16 bits."""

    def run(x: jax.Array, y: jax.Array, table: jax.Array) -> jax.Array:
        rows, columns = (operand.astype(jnp.int32) & 255 for operand in (x, y))
        return table_entry(table.reshape(-1), rows * 256 + columns)

    return Computation(run, node.inputs)
