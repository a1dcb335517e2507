"""Ops with regions in XLA: loops and branches of jax over programs that are traced once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from qir.backends.native.computation import AllSizes, Computation, Lowering, Parameter, always
from qir.errors import UnsupportedError
from qir.ir import Node
from qir.ops import Cond, Scan, While
from qir.ops.op import Op
from qir.ops.regions import Body
from qir.types import Array

_Run: TypeAlias = Callable[[Any, Sequence[Body], Sequence[Any]], Sequence[Any]]


def _scan(op: Scan, bodies: Sequence[Body], operands: Sequence[Any]) -> Sequence[Any]:
    (body,) = bodies
    invariants = len(operands) - op.carries - op.stacked
    fixed = operands[:invariants]
    first = tuple(operands[invariants : invariants + op.carries])
    stacked = tuple(operands[invariants + op.carries :])

    def trip(carried: Any, parts: Any) -> tuple[Any, Any]:
        returned = body(*fixed, *carried, *parts)
        return tuple(returned[: op.carries]), tuple(returned[op.carries :])

    last, results = lax.scan(trip, first, stacked, length=op.trips, reverse=op.reverse)
    return (*last, *results)


def _while(op: While, bodies: Sequence[Body], operands: Sequence[Any]) -> Sequence[Any]:
    condition, body = bodies
    invariants = len(operands) - op.carries
    fixed, first = operands[:invariants], tuple(operands[invariants:])

    def goes_on(carried: Any) -> jax.Array:
        (answer,) = condition(*fixed, *carried)
        return jnp.asarray(answer)

    last: tuple[Any, ...] = lax.while_loop(
        goes_on, lambda carried: tuple(body(*fixed, *carried)), first
    )
    return last


def _cond(op: Cond, bodies: Sequence[Body], operands: Sequence[Any]) -> Sequence[Any]:
    index, *others = operands
    branches = [lambda *arrays, body=body: tuple(body(*arrays)) for body in bodies]
    results: tuple[Any, ...] = lax.switch(index.astype(jnp.int32), branches, *others)
    return results


RUNS: Mapping[type[Op], _Run] = {Scan: _scan, While: _while, Cond: _cond}
"""How jax runs each op with regions."""


def _build(op: Op, node: Node) -> Computation:
    """Runs its regions in a loop or branch of XLA."""
    raise UnsupportedError(f"xla: no lowering of {op.name} without the programs of its regions")


IN_REGIONS = Lowering("regions", always, always, _build)
"""What the report says of an op with regions; how each op inside is computed stands below it."""


def in_regions(node: Node, programs: Sequence[Any]) -> Computation:
    """Builds the computation of an op with regions from the programs of its regions.

    Args:
        node: The node.
        programs: An XlaProgram for each region.

    Raises:
        UnsupportedError: jax is not told how to run such an op.
    """
    run = RUNS.get(type(node.op))
    if run is None:
        raise UnsupportedError(f"xla: no lowering of {node.op.name}", [node.place()])
    parameters: list[Parameter] = []
    names: list[list[str]] = []
    for program in programs:
        arrays: Mapping[str, Array] = program.arrays
        names.append(list(arrays))
        parameters += [Parameter(name, array) for name, array in arrays.items()]
    count = len(node.inputs)

    def compute(sizes: Any, *arguments: Any) -> tuple[Any, ...]:
        operands, arrays = arguments[:count], iter(arguments[count:])
        bodies = []
        for program, own in zip(programs, names, strict=True):
            given = {name: next(arrays) for name in own}
            bodies.append(
                lambda *inputs, program=program, given=given: program(given, inputs, sizes)
            )
        return tuple(run(node.op, bodies, operands))

    return Computation(compute, (AllSizes(), *node.inputs, *parameters))
