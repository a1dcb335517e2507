"""A jaxpr as one flat list of equations: calls inlined, identities dropped, dead code removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qir.frontends.jaxpr.bodies import connect, jaxprs_of, prune
from qir.frontends.jaxpr.locations import line_of, scope_of
from qir.frontends.jaxpr.program import Call, Equation, FlatProgram, RegionEquation, Slot
from qir.frontends.shared.locations import location
from qir.interop.jax_internals import ClosedJaxpr, Jaxpr, Literal

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


def flatten(closed: ClosedJaxpr, line: str | None = None) -> FlatProgram:
    """Inlines every call of a jaxpr and keeps the equations that its outputs need.

    Loops and branches stay; their bodies are such programs too.

    Args:
        closed: The jaxpr.
        line: Location, `file:line`, of equations that jax recorded none for.
    """
    program = _flatten(closed, (), line)
    prune(program)
    return program


def _flatten(closed: ClosedJaxpr, outer: tuple[str, ...], line: str | None) -> FlatProgram:
    program = FlatProgram(tuple(Slot(var.aval) for var in closed.jaxpr.invars))
    program.outputs = _inline(program, closed.jaxpr, closed.consts, program.inputs, outer, line)
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
        elif jaxprs := jaxprs_of(name, eqn.params):
            equation = RegionEquation(
                eqn.primitive,
                eqn.params,
                inputs=operands,
                outputs=(),
                loc=location(line, scope),
                bodies=tuple(_flatten(jaxpr, scope, line) for jaxpr in jaxprs),
                ways=[],
                whole=operands,
                results=tuple(Slot(var.aval) for var in eqn.outvars),
                condition=0 if name == "while" else None,
            )
            results = connect(equation)
            program.equations.append(equation)
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
