"""A jaxpr as one flat list of equations: calls inlined, identities dropped, dead code removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qir.frontends.jaxpr.locations import line_of, scope_of
from qir.frontends.shared.locations import location
from qir.interop.jax_internals import ClosedJaxpr, Jaxpr, Literal, Primitive

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
"""Primitives that run a jaxpr on their operands, and the parameter that holds it."""

_IDENTITIES = {
    "copy",
    "copy_p",
    "device_put",
    "name",
    "optimization_barrier",
    "sharding_constraint",
    "stop_gradient",
}
"""Primitives whose results are their operands."""


@dataclass(eq=False)
class Slot:
    """A variable of the flat program.

    Attributes:
        aval: Shape and type, as jax describes them.
        constant: The array, where the variable is a constant of the jaxpr.
    """

    aval: Any
    constant: Any = None


@dataclass(eq=False)
class Equation:
    """One application of a primitive."""

    primitive: Primitive
    params: Mapping[str, Any]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    loc: str | None


@dataclass(eq=False)
class Call:
    """A function that was inlined but whose name says what it computes."""

    name: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]


@dataclass(eq=False)
class FlatProgram:
    """A jaxpr without calls; `calls` lists what was inlined, outer before inner."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...] = ()
    equations: list[Equation] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


def flatten(closed: ClosedJaxpr, line: str | None = None) -> FlatProgram:
    """Inlines every call of a jaxpr and keeps the equations that its outputs need.

    Args:
        closed: The jaxpr.
        line: Location, `file:line`, of equations that jax recorded none for.
    """
    program = FlatProgram(tuple(Slot(var.aval) for var in closed.jaxpr.invars))
    program.outputs = _inline(program, closed.jaxpr, closed.consts, program.inputs, (), line)
    needed = set(program.outputs)
    kept = []
    for equation in reversed(program.equations):
        if needed.intersection(equation.outputs):
            needed.update(equation.inputs)
            kept.append(equation)
    program.equations = kept[::-1]
    return program


def _inline(
    program: FlatProgram,
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    inputs: Sequence[Slot],
    outer: tuple[str, ...],
    outer_line: str | None,
) -> tuple[Slot, ...]:
    slots: dict[Any, Slot] = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, const in zip(jaxpr.constvars, consts, strict=True):
        slots[var] = Slot(var.aval, const)

    def read(atom: Any) -> Slot:
        return Slot(atom.aval, atom.val) if isinstance(atom, Literal) else slots[atom]

    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        operands = tuple(read(atom) for atom in eqn.invars)
        scope = (*outer, *scope_of(eqn))
        # Inside a function that jax has traced once, the line is that of the call.
        line = line_of(eqn) or outer_line
        if name in _IDENTITIES or _keeps_type(eqn):
            results = operands
        elif name in _CALLS:
            called = eqn.params[_CALLS[name]]
            label = eqn.params.get("name") or ""
            call = Call(label, operands, ())
            if label:
                program.calls.append(call)
            results = _inline(
                program,
                getattr(called, "jaxpr", called),
                getattr(called, "consts", ()),
                operands,
                scope,
                line,
            )
            call.outputs = results
        else:
            if name == "concatenate":
                # An edge that is padded by nothing is cut from an axis that may have no known size.
                operands = tuple(slot for slot in operands if not _is_empty(slot)) or operands[:1]
            results = tuple(Slot(var.aval) for var in eqn.outvars)
            loc = location(line, scope)
            program.equations.append(Equation(eqn.primitive, eqn.params, operands, results, loc))
        slots.update(zip(eqn.outvars, results, strict=True))
    return tuple(read(atom) for atom in jaxpr.outvars)


def _is_empty(slot: Slot) -> bool:
    return any(isinstance(size, int) and size == 0 for size in slot.aval.shape)


def _keeps_type(eqn: Any) -> bool:
    if eqn.primitive.name != "convert_element_type":
        return False
    return bool(eqn.outvars[0].aval.dtype == eqn.invars[0].aval.dtype)
