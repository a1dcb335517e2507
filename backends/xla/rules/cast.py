"""The casts between real numbers and codes, between plain types, and the lookup."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from qir.backends.native.steps import Step
from qir.backends.xla import arithmetic
from qir.backends.xla.codes import code_of, steps, table_entry, zero_points
from qir.backends.xla.lowering import argument, lowering, never, spread
from qir.backends.xla.requantize import Factor, no_form, rescaling_by
from qir.ir import Node
from qir.numbers.rounding import Float32, MachineForm, Scaled, Thresholds
from qir.ops import Cast, Dequantize, Lookup, Quantize, Requantize
from qir.types import DType


def _affine_result(op: Quantize, node: Node) -> bool:
    return op.to.levels is None


@lowering(Quantize, legal=_affine_result)
def quantize(op: Quantize, node: Node) -> Step:
    """One float32 multiplication, ties to even."""
    code, (low, high) = op.to, op.to.range
    inverse = argument(f"{node.output.name}.inverse_scale", code.inverse_scale)

    def run(x: jax.Array, inverse: Factor) -> jax.Array:
        points = zero_points(code, x.shape)
        factors = spread(inverse, x.shape)
        return arithmetic.quantize(
            x.astype(jnp.float32), factors, points, low, high, code.storage.numpy
        )

    return Step(run, (*node.inputs, inverse))


def _fits_int32(op: Dequantize, node: Node) -> bool:
    return node.inputs[0].type.dtype is not DType.U32


@lowering(Dequantize, legal=_fits_int32)
def dequantize(op: Dequantize, node: Node) -> Step:
    """One float32 multiplication."""
    code = code_of(node.inputs[0].type)
    scale = argument(f"{node.inputs[0].name}.scale", code.scale.array.astype(np.float32))

    def run(x: jax.Array, scale: Factor) -> jax.Array:
        real = arithmetic.dequantize(steps(x, code), 0, spread(scale, x.shape))
        return real.astype(code.expressed.numpy)

    return Step(run, (*node.inputs, scale))


def _own_form(op: Requantize, node: Node) -> MachineForm | None:
    forms = op.machine_forms(node.inputs[0].type)
    return next((form for mode, form in forms if mode == op.rounding), None)


def _certified_form(op: Requantize, node: Node, *kinds: type[MachineForm]) -> MachineForm | None:
    forms = op.machine_forms(node.inputs[0].type)
    certified = (form for mode, form in forms if mode != op.rounding)
    return next((form for form in certified if isinstance(form, kinds)), None)


def _has_form(op: Requantize, node: Node) -> bool:
    return _own_form(op, node) is not None


def _no_form(op: Requantize, node: Node) -> str:
    return no_form(f"requantize %{node.output.name}", op.rounding)


@lowering(Requantize, legal=_has_form, why_not=_no_form)
def requantize(op: Requantize, node: Node) -> Step:
    """One rounding, by the op's mode."""
    return _requantization(op, node, _own_form(op, node))


def _certified(*kinds: type[MachineForm]) -> Callable[[Requantize, Node], bool]:
    """Returns a test for the certificate of a mode that has one of some machine forms."""
    return lambda op, node: _certified_form(op, node, *kinds) is not None


@lowering(Requantize, legal=_certified(Float32), preferred=never)
def requantize_by_float32(op: Requantize, node: Node) -> Step:
    """One float32 multiplication, ties to even, certified to give the integers of the op's mode."""
    return _requantization(op, node, _certified_form(op, node, Float32))


@lowering(Requantize, legal=_certified(Scaled, Thresholds), preferred=never)
def requantize_by_integers(op: Requantize, node: Node) -> Step:
    """Integers alone, of a mode that is certified to give the integers of the op's mode."""
    return _requantization(op, node, _certified_form(op, node, Scaled, Thresholds))


def _requantization(op: Requantize, node: Node, form: MachineForm | None) -> Step:
    (x,) = node.inputs
    code = code_of(x.type)
    assert form is not None
    rescale, factors = rescaling_by(node.output.name, form, op.to, op.bounds)

    def run(stored: jax.Array, *factors: Factor) -> jax.Array:
        return rescale(steps(stored, code), *factors)

    return Step(run, (x, *factors))


@lowering(Lookup)
def lookup(op: Lookup, node: Node) -> Step:
    """The table's entry for the bits of each stored number."""

    def run(x: jax.Array, table: jax.Array) -> jax.Array:
        return table_entry(table, x.astype(jnp.int32) & (table.shape[0] - 1))

    return Step(run, node.inputs)


@lowering(Cast)
def cast(op: Cast, node: Node) -> Step:
    """XLA's conversion, with the clamp and wrapping that it leaves to the platform."""
    to, of = op.to, node.inputs[0].type.dtype

    def run(x: jax.Array) -> jax.Array:
        if to is DType.BOOL:
            return x != 0
        if to.is_integer and of.is_float:
            return _saturated(x.astype(jnp.float32), to)
        if to.is_integer and to.bits < 8:
            low, _ = to.bounds
            x = ((x.astype(jnp.int32) - low) & (2**to.bits - 1)) + low
        return x.astype(to.numpy)

    return Step(run, node.inputs)


def _saturated(x: jax.Array, to: DType) -> jax.Array:
    """Converts float32 to integers towards 0; NaN to 0."""
    low, high = to.bounds
    # The greatest float32 that the type holds: 2^31 - 1 and 2^32 - 1 are none.
    most = np.float32(high) if to.bits <= 24 else np.nextafter(np.float32(high), np.float32(0))
    whole = jnp.where(jnp.isnan(x), jnp.float32(0), jnp.trunc(x))
    inside = jnp.clip(whole, np.float32(low), most).astype(to.numpy)
    return jnp.where(whole > most, np.asarray(high, to.numpy), inside)
