"""The casts between real numbers and codes, between codes, and between plain types."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Computation, Parameter
from qir.backends.xla import arithmetic
from qir.backends.xla.codes import code_of, multiples, steps, table_entry, zero_points
from qir.backends.xla.lowering import argument, lowering, never, spread
from qir.backends.xla.requantize import Factor, no_form, rescaling_by
from qir.backends.xla.words import Words
from qir.errors import UnsupportedError
from qir.interop.jax_internals import guarded
from qir.ir import Node
from qir.numbers.int32 import INT32_MAX, INT32_MIN
from qir.numbers.level_thresholds import level_thresholds
from qir.numbers.quantize_mode import thresholds
from qir.numbers.rounding import Float32, MachineForm, Scaled, Thresholds
from qir.ops import Cast, Dequantize, Quantize, Recode, Requantize
from qir.ops.cast import is_long
from qir.types import SMALLEST_NORMAL, Affine, Array, DType, LevelCode

_NO_GRADIENT = (
    "gradient: expected a float program, got one that rounds to the integers of %{}; "
    "differentiate the program that it was quantized from"
)


def _multiplies(op: Quantize, node: Node) -> bool:
    return isinstance(op.to, Affine) and op.rounding == "reciprocal"


@lowering(Quantize, legal=_multiplies)
def quantize(op: Quantize, node: Node) -> Computation:
    """One float32 multiplication, ties to even."""
    code, (low, high) = code_of(node.output.type), op.to.range
    inverse = argument(f"{node.output.name}.inverse_scale", code.inverse_scale)

    def run(x: jax.Array, inverse: Factor) -> jax.Array:
        points = zero_points(code, x.shape)
        factors = spread(inverse, x.shape)
        real = guarded(x.astype(jnp.float32), _NO_GRADIENT.format(node.output.name))
        return arithmetic.quantize(real, factors, points, low, high, code.storage.numpy)

    return Computation(run, (*node.inputs, inverse))


def _compares(op: Quantize, node: Node) -> bool:
    return op.rounding != "reciprocal"


@lowering(Quantize, legal=_compares)
def quantize_by_thresholds(op: Quantize, node: Node) -> Computation:
    """One float32 multiplication, and a step up or down where the mode's thresholds say so."""
    code, (low, high) = code_of(node.output.type), op.to.range
    count = high - low + 1
    found = thresholds(op.rounding, code)
    _check_nearby(op, found)
    # No number lies below the first threshold, and none reaches the last.
    table = np.pad(found, ((0, 0), (1, 1)), constant_values=((0, 0), (INT32_MIN, INT32_MAX)))
    rows = np.arange(len(found), dtype=np.int32).reshape(code.scale.array.shape)
    name = node.output.name
    inverse = argument(f"{name}.inverse_scale", code.inverse_scale)

    def run(x: jax.Array, inverse: Factor, table: jax.Array, rows: Factor) -> jax.Array:
        points, factors = zero_points(code, x.shape), spread(inverse, x.shape)
        x = x.astype(jnp.float32)
        fenced: jax.Array = lax.optimization_barrier(x)  # type: ignore[no-untyped-call]
        near = arithmetic.quantize(fenced, factors, points, low, high, np.int32) - low
        index = near + spread(rows, x.shape) * count
        place = _ordered(fenced)
        above = place >= table_entry(table[:, 1:].reshape(-1), index)
        below = place < table_entry(table[:, :-1].reshape(-1), index)
        stored = low + near + above.astype(jnp.int32) - below.astype(jnp.int32)
        # A zero point may lie outside of the stored numbers.
        nothing = jnp.clip(points, low, high)
        return jnp.where(jnp.isnan(fenced), nothing, stored).astype(code.storage.numpy)

    arguments = (Parameter(f"{name}.thresholds", table), argument(f"{name}.rows", rows))
    return Computation(run, (*node.inputs, inverse, *arguments))


def _compares_levels(op: Quantize, node: Node) -> bool:
    return isinstance(op.to, LevelCode)


@lowering(Quantize, legal=_compares_levels)
def quantize_to_levels(op: Quantize, node: Node) -> Computation:
    """A binary search among float32 thresholds, in the order of float32 numbers."""
    code, name = op.to, node.output.name
    assert isinstance(code, LevelCode)
    found = level_thresholds(code)
    bits = found.shape[1].bit_length()
    # No number reaches what fills a row up; there is one entry more than the search asks for.
    table = np.full((len(found), 2**bits), INT32_MAX, np.int32)
    table[:, : found.shape[1]] = found
    rows = np.arange(len(found), dtype=np.int32).reshape(code.grid)
    stored_in_order = (code.order + code.storage.bounds[0]).astype(np.int32)
    nothing = int(code.encode(np.nan if code.per_tensor else np.full(code.grid, np.nan)).flat[0])

    def run(x: jax.Array, table: jax.Array, rows: Factor) -> jax.Array:
        real = guarded(x.astype(jnp.float32), _NO_GRADIENT.format(name))
        fenced: jax.Array = lax.optimization_barrier(real)  # type: ignore[no-untyped-call]
        place, entries = _ordered(fenced), table.reshape(-1)
        start = spread(rows, x.shape) * 2**bits
        reached = jnp.zeros(x.shape, jnp.int32)
        for bit in reversed(range(bits)):
            above = place >= table_entry(entries, start + reached + (2**bit - 1))
            reached = reached + above.astype(jnp.int32) * 2**bit
        if code.is_ordered:
            stored = reached + code.range[0]
        else:
            stored = table_entry(jnp.asarray(stored_in_order), reached)
        return jnp.where(jnp.isnan(fenced), nothing, stored).astype(code.storage.numpy)

    arguments = (Parameter(f"{name}.thresholds", table), argument(f"{name}.rows", rows))
    return Computation(run, (*node.inputs, *arguments))


def _check_nearby(op: Quantize, found: Array) -> None:
    """Raises UnsupportedError where a mode may be two steps away from the rounded product."""
    assert isinstance(op.to, Affine)
    product = thresholds("reciprocal", op.to)
    if np.any(found[:, 1:] < product[:, :-1]) or np.any(found[:, :-1] > product[:, 1:]):
        raise UnsupportedError(
            "xla: quantize: expected a rounding within one step of x * (1 / scale) + zero point, "
            f"got {op.rounding}; qir.evaluate computes it"
        )


def _ordered(x: jax.Array) -> jax.Array:
    """Returns int32 numbers in the order of float32 ones; see `quantize_mode.ordered`."""
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ INT32_MAX, bits)


def _fits_int32(op: Dequantize, node: Node) -> bool:
    return node.inputs[0].type.dtype is not DType.U32


def _is_computed(op: Dequantize, node: Node) -> bool:
    return not node.inputs[0].is_constant


@lowering(Dequantize, legal=_fits_int32, preferred=_is_computed)
def dequantize(op: Dequantize, node: Node) -> Computation:
    """One float32 multiplication, by the product of the scale's factors where it has several."""
    code = node.inputs[0].type.code
    scales = [argument(f"{node.inputs[0].name}.scale", each) for each in code.decoding_factors]

    def run(x: jax.Array | Words, *scales: Factor) -> jax.Array:
        factor = reduce(jnp.multiply, (spread(scale, x.shape) for scale in scales))
        if len(scales) > 1:
            factor = jnp.where(factor < SMALLEST_NORMAL, jnp.float32(0), factor)
        if isinstance(x, Words):
            real = x.float32() * jnp.asarray(factor, jnp.float32)
        else:
            real = multiples(x, code) * factor
        return real.astype(code.expressed.numpy)

    return Computation(run, (*node.inputs, *scales))


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
    return no_form(f"requantize %{node.output.name}", op.rounding, op.bounds)


@lowering(Requantize, legal=_has_form, why_not=_no_form)
def requantize(op: Requantize, node: Node) -> Computation:
    """One rounding, by the op's mode."""
    return _requantization(op, node, _own_form(op, node))


def _certified(*kinds: type[MachineForm]) -> Callable[[Requantize, Node], bool]:
    """Returns a test for the certificate of a mode that has one of some machine forms."""
    return lambda op, node: _certified_form(op, node, *kinds) is not None


@lowering(Requantize, legal=_certified(Float32), preferred=never)
def requantize_by_float32(op: Requantize, node: Node) -> Computation:
    """One float32 multiplication, ties to even, certified to give the integers of the op's mode."""
    return _requantization(op, node, _certified_form(op, node, Float32))


@lowering(Requantize, legal=_certified(Scaled, Thresholds), preferred=never)
def requantize_by_integers(op: Requantize, node: Node) -> Computation:
    """Integers alone, of a mode that is certified to give the integers of the op's mode."""
    return _requantization(op, node, _certified_form(op, node, Scaled, Thresholds))


def _requantization(op: Requantize, node: Node, form: MachineForm | None) -> Computation:
    (x,) = node.inputs
    code = x.type.code
    assert form is not None
    long = is_long(x.type)
    rescale, factors = rescaling_by(node.output.name, form, op.to, op.bounds, long)

    def run(stored: jax.Array | Words, *factors: Factor) -> jax.Array:
        acc = stored if isinstance(stored, Words) else steps(stored, code)
        return rescale(acc, *factors)

    return Computation(run, (x, *factors))


@lowering(Recode)
def recode(op: Recode, node: Node) -> Computation:
    """The numbers as they are, or with the highest bit of each byte turned."""
    if not op.offset(node.inputs[0].type):
        return Computation(lambda x: x, node.inputs)
    storage = node.output.type.dtype.numpy

    def run(x: jax.Array) -> jax.Array:
        bits = lax.bitcast_convert_type(x, jnp.uint8) ^ np.uint8(0x80)
        return lax.bitcast_convert_type(bits, storage)

    return Computation(run, node.inputs)


@lowering(Cast)
def cast(op: Cast, node: Node) -> Computation:
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

    return Computation(run, node.inputs)


def _saturated(x: jax.Array, to: DType) -> jax.Array:
    """Converts float32 to integers towards 0; NaN to 0."""
    low, high = to.bounds
    # The greatest float32 that the type holds: 2^31 - 1 and 2^32 - 1 are none.
    most = np.float32(high) if to.bits <= 24 else np.nextafter(np.float32(high), np.float32(0))
    whole = jnp.where(jnp.isnan(x), jnp.float32(0), jnp.trunc(x))
    inside = jnp.clip(whole, np.float32(low), most).astype(to.numpy)
    return jnp.where(whole > most, np.asarray(high, to.numpy), inside)
