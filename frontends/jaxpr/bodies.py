"""Loops and branches of a jaxpr: what goes through them, and what of it nothing needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qir.frontends.jaxpr.program import FlatProgram, RegionEquation, Slot, Way
from qir.interop.jax_internals import ClosedJaxpr, jaxpr_as_fun, scan_counts


def jaxprs_of(name: str, params: Mapping[str, Any]) -> list[ClosedJaxpr]:
    """Returns what a primitive runs by itself, one or several times; nothing for most."""
    match name:
        case "scan":
            return [params["jaxpr"]]
        case "while":
            condition, body = params["cond_jaxpr"], params["body_jaxpr"]
            if condition.out_avals[0].shape:
                return _as_one_loop(condition, body, params["cond_nconsts"])
            return [condition, body]
        case "cond":
            return list(params["branches"])
        case _:
            return []


def _as_one_loop(condition: ClosedJaxpr, body: ClosedJaxpr, consts: int) -> list[ClosedJaxpr]:
    """Writes out what jax means by a loop under vmap: it goes on while one of the rows does.

    The rows that have come to an end stay as they are. The body takes the constants of the
    condition too, before its own.
    """
    goes_on, step = map(jaxpr_as_fun, (condition, body))
    carries = len(body.out_avals)

    def any_goes_on(*given: Any) -> jax.Array:
        return jnp.any(goes_on(*given)[0])

    def step_of_some(*given: Any) -> list[jax.Array]:
        carried = given[len(given) - carries :]
        (going,) = goes_on(*given[:consts], *carried)
        return [
            lax.select_n(_over(going, new), old, new)
            for old, new in zip(carried, step(*given[consts:]), strict=True)
        ]

    inputs = [*condition.in_avals[:consts], *body.in_avals]
    return [jax.make_jaxpr(any_goes_on)(*condition.in_avals), jax.make_jaxpr(step_of_some)(*inputs)]


def _over(rows: jax.Array, like: jax.Array) -> jax.Array:
    return lax.broadcast_in_dim(rows, like.shape, tuple(range(rows.ndim)))


def connect(equation: RegionEquation) -> tuple[Slot, ...]:
    """Finds out what goes through a loop or branch; what is carried as it is becomes invariant.

    Returns:
        The results: for those that are carried as they are, the operands.
    """
    ways = _WAYS[equation.primitive.name](equation)
    unchanged = {way.result: way.operand for way in ways if _is_unchanged(way)}
    kept = [_invariant(way) if _is_unchanged(way) else way for way in ways]
    equation.settle(sorted(kept, key=lambda way: _ORDER[way.kind]))
    return tuple(unchanged.get(result) or result for result in equation.results)


_ORDER = {"invariant": 0, "carried": 1, "stacked": 2}


def _is_unchanged(way: Way) -> bool:
    taken = [slot for _, slot in way.inputs]
    return way.kind == "carried" and all(slot in taken for _, slot in way.outputs)


def _invariant(way: Way) -> Way:
    return Way("invariant", way.operand, way.inputs)


def _scan(equation: RegionEquation) -> list[Way]:
    (body,) = equation.bodies
    consts, carries = scan_counts(equation.params)
    operands = list(zip(equation.whole, body.inputs, strict=True))
    results = list(zip(body.outputs, equation.results, strict=True))
    carried = zip(operands[consts : consts + carries], results[:carries], strict=True)
    return [
        *(Way("invariant", slot, ((0, inner),)) for slot, inner in operands[:consts]),
        *(
            Way("carried", slot, ((0, taken),), ((0, returned),), result)
            for (slot, taken), (returned, result) in carried
        ),
        *(Way("stacked", slot, ((0, inner),)) for slot, inner in operands[consts + carries :]),
        *(Way("stacked", None, (), ((0, inner),), result) for inner, result in results[carries:]),
    ]


def _while(equation: RegionEquation) -> list[Way]:
    condition, body = equation.bodies
    first, second = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    given = equation.whole
    # Under vmap the body takes the constants of the condition too.
    both = len(body.inputs) - len(given[first:])
    carried = zip(
        given[first + second :],
        condition.inputs[first:],
        body.inputs[both + second :],
        body.outputs,
        equation.results,
        strict=True,
    )
    # Both programs take all that either reads.
    return [
        *(
            Way("invariant", slot, ((0, inner), (1, taken if both else Slot(inner.aval))))
            for slot, inner, taken in zip(
                given[:first], condition.inputs, body.inputs, strict=False
            )
        ),
        *(
            Way("invariant", slot, ((0, Slot(inner.aval)), (1, inner)))
            for slot, inner in zip(given[first : first + second], body.inputs[both:], strict=False)
        ),
        *(
            Way("carried", slot, ((0, tested), (1, taken)), ((1, returned),), result)
            for slot, tested, taken, returned, result in carried
        ),
    ]


def _cond(equation: RegionEquation) -> list[Way]:
    index, *operands = equation.whole
    inputs = zip(*(body.inputs for body in equation.bodies), strict=True)
    outputs = zip(*(body.outputs for body in equation.bodies), strict=True)
    return [
        Way("invariant", index),
        *(
            Way("invariant", slot, tuple(enumerate(inner)))
            for slot, inner in zip(operands, inputs, strict=True)
        ),
        *(
            Way("invariant", None, (), tuple(enumerate(inner)), result)
            for inner, result in zip(outputs, equation.results, strict=True)
        ),
    ]


_WAYS: dict[str, Callable[[RegionEquation], list[Way]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}


def prune(program: FlatProgram) -> None:
    """Drops the equations that the outputs of a program don't need, in what loops run too.

    With them goes what is only carried on, such as the random keys that layers hand from trip to
    trip.
    """
    needed = _needed(program, program.outputs)
    kept = [equation for equation in program.equations if needed.intersection(equation.outputs)]
    program.equations = kept
    for equation in kept:
        if isinstance(equation, RegionEquation):
            equation.settle(_needed_ways(equation, needed))
            for body in equation.bodies:
                prune(body)


def _needed(program: FlatProgram, outputs: Iterable[Slot]) -> set[Slot]:
    """Returns the variables that some variables of a program need, and these."""
    needed = set(outputs)
    for equation in reversed(program.equations):
        if not needed.intersection(equation.outputs):
            continue
        if isinstance(equation, RegionEquation):
            ways = _needed_ways(equation, needed)
            needed.update(way.operand for way in ways if way.operand is not None)
        else:
            needed.update(equation.inputs)
    return needed


def _needed_ways(equation: RegionEquation, needed: set[Slot]) -> Sequence[Way]:
    """Returns what must go through an equation, where some variables around it are needed."""
    kept = {way for way in equation.ways if way.result in needed or not way.inputs + way.outputs}
    while True:
        inside: set[Slot] = set()
        for place, body in enumerate(equation.bodies):
            returned = [
                slot
                for way in equation.ways
                if way in kept
                for at, slot in way.outputs
                if at == place
            ]
            inside |= _needed(body, body.outputs if place == equation.condition else returned)
        found = {
            way
            for way in equation.ways
            if way in kept or any(slot in inside for _, slot in way.inputs)
        }
        if found == kept:
            return [way for way in equation.ways if way in kept]
        kept = found
