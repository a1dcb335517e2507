"""Ops with regions in XLA: loops and branches of jax over programs that are traced once.

A while loop that does not come to an end within its `max_trips` is stopped, and a program returns
its number beside the results, through all loops and branches around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import AllSizes, Computation, Lowering, Parameter, always
from qir.errors import QirError, UnsupportedError
from qir.ir import Node
from qir.ops import Cond, Scan, While
from qir.ops.op import Op
from qir.types import Array


class Ran(NamedTuple):
    """What a program, a loop or a branch computed.

    Attributes:
        results: Its results.
        endless: The number of the first while loop that was stopped; 0 for none, None where there
            is no such loop.
    """

    results: tuple[Any, ...]
    endless: Any = None


_Body: TypeAlias = Callable[..., Ran]
"""A region as a function of arrays."""
_Run: TypeAlias = Callable[[Any, Sequence[_Body], Sequence[Any], int], Ran]


def first_endless(*found: Any) -> Any:
    """Returns the first number that is not 0, or 0; None where there are no numbers."""
    numbers = [number for number in found if number is not None]
    if not numbers:
        return None
    first = numbers[0]
    for number in numbers[1:]:
        first = jnp.where(first != 0, first, number)
    return first


def renumbered(endless: Any, before: int) -> Any:
    """Returns the number of a while loop in a program that has some others before it."""
    if endless is None or not before:
        return endless
    return jnp.where(endless != 0, endless + jnp.int32(before), endless)


def _zero(whiles: int) -> Any:
    return jnp.zeros((), jnp.int32) if whiles else None


def _scan(op: Scan, bodies: Sequence[_Body], operands: Sequence[Any], whiles: int) -> Ran:
    (body,) = bodies
    invariants = len(operands) - op.carries - op.stacked
    fixed = operands[:invariants]
    first = tuple(operands[invariants : invariants + op.carries])
    stacked = tuple(operands[invariants + op.carries :])

    def trip(state: Any, parts: Any) -> tuple[Any, Any]:
        carried, endless = state
        found = body(*fixed, *carried, *parts)
        endless = first_endless(endless, found.endless)
        return (found.results[: op.carries], endless), found.results[op.carries :]

    start = first, _zero(whiles)
    (last, endless), results = lax.scan(trip, start, stacked, length=op.trips, reverse=op.reverse)
    return Ran((*last, *results), endless)


def _while(op: While, bodies: Sequence[_Body], operands: Sequence[Any], whiles: int) -> Ran:
    condition, body = bodies
    invariants = len(operands) - op.carries
    fixed, first = operands[:invariants], tuple(operands[invariants:])

    def asked(carried: Sequence[Any], *endless: Any) -> tuple[Any, Any]:
        found = condition(*fixed, *carried)
        (answer,) = found.results
        return jnp.asarray(answer), first_endless(*endless, found.endless)

    def goes_on(state: Any) -> jax.Array:
        trips, more, _, _ = state
        return jnp.logical_and(more, trips < op.max_trips)

    def trip(state: Any) -> Any:
        trips, _, endless, carried = state
        found = body(*fixed, *carried)
        more, endless = asked(found.results, endless, found.endless)
        return trips + jnp.int32(1), more, endless, tuple(found.results)

    more, endless = asked(first, _zero(whiles))
    state = jnp.zeros((), jnp.int32), more, endless, first
    _, more, endless, last = lax.while_loop(goes_on, trip, state)
    return Ran(last, first_endless(endless, jnp.where(more, jnp.int32(whiles), jnp.int32(0))))


def _cond(op: Cond, bodies: Sequence[_Body], operands: Sequence[Any], whiles: int) -> Ran:
    index, *others = operands

    def branch(body: _Body) -> Callable[..., Any]:
        def compute(*arrays: Any) -> Any:
            found = body(*arrays)
            return tuple(found.results), first_endless(_zero(whiles), found.endless)

        return compute

    branches = list(map(branch, bodies))
    # jax would take an unsigned index of 2^31 or more for a negative one.
    chosen = jnp.clip(index, 0, min(len(branches) - 1, int(np.iinfo(index.dtype).max)))
    results, endless = lax.switch(chosen.astype(jnp.int32), branches, *others)
    return Ran(results, endless)


RUNS: Mapping[type[Op], _Run] = {Scan: _scan, While: _while, Cond: _cond}
"""How jax runs each op with regions: (op, bodies, operands, number of while loops in it)."""


def _build(op: Op, node: Node) -> Computation:
    """Runs its regions in a loop or branch of XLA."""
    raise UnsupportedError(f"xla: no lowering of {op.name} without the programs of its regions")


IN_REGIONS = Lowering("regions", always, always, _build)
"""What the report says of an op with regions; how each op inside is computed stands below it."""


def stopped(node: Node, programs: Sequence[Any]) -> list[QirError]:
    """Returns the errors of while loops in a node that never end, in the order of their numbers.

    Args:
        node: A node with regions.
        programs: An XlaProgram for each region.
    """
    errors: list[QirError] = [
        error.at(node.place()) for program in programs for error in program.endless
    ]
    if isinstance(node.op, While):
        errors.append(node.op.endless().at(node.place()))
    return errors


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
    count, whiles = len(node.inputs), len(stopped(node, programs))

    def compute(sizes: Any, *arguments: Any) -> Ran:
        operands, arrays = arguments[:count], iter(arguments[count:])
        bodies: list[_Body] = []
        before = 0
        for program, own in zip(programs, names, strict=True):
            given = {name: next(arrays) for name in own}

            def body(
                *inputs: Any, program: Any = program, given: Any = given, before: int = before
            ) -> Ran:
                found: Ran = program.run(given, inputs, sizes)
                return Ran(found.results, renumbered(found.endless, before))

            bodies.append(body)
            before += len(program.endless)
        return run(node.op, bodies, operands, whiles)

    return Computation(compute, (AllSizes(), *node.inputs, *parameters))
