"""The casts between real numbers and codes, and the lookup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from qir.errors import QirError
from qir.numbers.quantize_mode import QUANTIZE_MODES
from qir.numbers.rounding import rounding_mode
from qir.ops import Dequantize, Lookup, Lookup2, Quantize, Recode, Requantize
from qir.ops.lookup import index_bits
from qir.types import (
    Affine,
    Array,
    Code,
    Codebook,
    DType,
    Element,
    Float8E4M3,
    Float8E5M2,
    FrozenArray,
    PowerOfTwo,
    TensorType,
    expand,
)
from tests.roundings import ANY_RATIO, near_multipliers
from tests.strategies.base import (
    BYTES,
    NARROW,
    SUMMED,
    WIDE,
    Case,
    Draw,
    Operand,
    cases_of,
    coded_operand,
    codes,
    computed_roundings,
    factored,
    floats,
    generator,
    in_float,
    program,
    shapes,
    stored,
)
from tests.strategies.elementwise import broadcasting
from tests.strategies.kinds import (
    around_borders,
    block_scales,
    in_two_levels,
    level_codes,
    with_blocks,
)

SMALL = (*NARROW, DType.I2, DType.I16, DType.U16)
SPECIAL = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-42, 0.0, -0.0]


def with_expressed(draw: Draw, code: Affine) -> Affine:
    """Lets a code stand for 16-bit floats at times."""
    expressed = draw(st.sampled_from([DType.F32, DType.F32, DType.F16, DType.BF16]))
    return replace(code, expressed=expressed)


@cases_of(Quantize)
def quantizes(draw: Draw, cls: type[Quantize]) -> Case:
    shape = draw(shapes())
    code = with_expressed(draw, draw(codes(SMALL, shape=shape, axis=len(shape) - 1, far=True)))
    if draw(st.integers(0, 3)) == 0:
        return _to_levels(draw, cls, shape)
    if draw(st.integers(0, 4)) == 0:
        code = in_two_levels(draw, code, shape)
    rng, scale = generator(draw), expand(code.step_sizes, shape).astype(np.float64)
    ties = (rng.integers(-300, 300, shape) + 0.5) * scale
    around = np.nextafter(
        ties.astype(np.float32), rng.choice([-np.inf, np.inf], shape), dtype=np.float32
    )
    middle = 0 if code.holds_zero else sum(code.range) / 2 - expand(code.zero_points, shape)
    anywhere = (rng.normal(0, 60, shape) + middle) * scale
    kind = rng.choice(4, shape, p=[0.4, 0.25, 0.25, 0.1])
    values = np.choose(kind, [anywhere, ties, around, rng.choice(SPECIAL, shape)])
    with np.errstate(over="ignore"):
        x = values.astype(np.float32).astype(code.expressed.numpy)
    uniform = code.per_tensor or code.grid[0] == 1
    modes = list(QUANTIZE_MODES) if code.multipliers is None else ["reciprocal"]
    rounding = draw(st.sampled_from(modes))
    return program(
        cls(code, rounding), Operand(x, code.expressed, named=uniform and draw(st.booleans()))
    )


def _to_levels(draw: Draw, cls: type[Quantize], shape: tuple[int, ...]) -> Case:
    shape = with_blocks(draw, shape)
    code, rng = level_codes(draw, shape, len(shape) - 1), generator(draw)
    if draw(st.integers(0, 3)) == 0:
        code = in_two_levels(draw, code, shape)
    near = around_borders(draw, code, shape)
    values = np.where(rng.random(shape) < 0.2, rng.choice(SPECIAL, shape), near)
    return program(cls(code), Operand(values.astype(np.float32), DType.F32))


@cases_of(Dequantize)
def dequantizes(draw: Draw, cls: type[Dequantize]) -> Case:
    shape = draw(shapes())
    axis = draw(st.integers(0, len(shape) - 1))
    code = draw(codes((*SMALL, DType.I32), shape=shape, axis=axis, far=True))
    kind = draw(st.sampled_from(["affine", "levels", "blocks", "factors"]))
    if kind == "levels":
        shape = with_blocks(draw, shape)
        table = level_codes(draw, shape, axis)
        if draw(st.integers(0, 2)) == 0:
            table = in_two_levels(draw, table, shape)
        return program(cls(), coded_operand(draw, table, shape, constant=draw(st.booleans())))
    if kind == "blocks":
        code = block_scales(draw, code.storage, shape)
    if kind == "factors" and len(shape) > 1:
        code = factored(draw, shape)
    code = with_expressed(draw, code)
    if code.storage.bits <= 16 and draw(st.integers(0, 2)) == 0:
        code = in_two_levels(draw, code, shape)
    return program(cls(), coded_operand(draw, code, shape, constant=draw(st.booleans())))


@cases_of(Requantize)
def requantizes(draw: Draw, cls: type[Requantize]) -> Case:
    shape = draw(shapes())
    last = len(shape) - 1
    source = draw(codes((DType.I32, DType.I32, *SMALL), shape=shape, axis=last, far=True))
    to = draw(codes(SMALL, shape=shape, axis=last, far=True))
    if draw(st.integers(0, 4)) == 0:
        to = Affine.of(DType.I32, to.scale.array.max(), bounds=(-(2**17), 2**17 - 1))
    kind = draw(st.sampled_from(["channels", "channels", "blocks", "factors"]))
    if kind == "blocks" and len(shape) == 2:
        return _requantize_blocks(draw, cls, shape)
    if source.storage is DType.I32:
        scale = source.scale.array * 2.0 ** -draw(st.integers(0, 30))
        source = Affine.of(DType.I32, scale)
    if kind == "factors" and len(shape) > 1:
        source = factored(draw, shape)
    whole = len(source.scale.factors) == 1
    low, high = to.range
    ends = draw(st.tuples(st.integers(low, high), st.integers(low, high)))
    clamp = draw(st.sampled_from([None, (min(ends), max(ends))]))
    rounding = draw(computed_roundings(to, any_ratio=not whole))
    options: dict[str, Any] = {"rounding": rounding, "clamp": clamp}
    if whole and (rounding not in ANY_RATIO or draw(st.booleans())):
        options |= _written_out(draw, rounding, source, to, shape)
    # 2^24 codes around a multiple of half a step, where float32 is dense and ties are frequent.
    reach = draw(st.sampled_from([2**31 - 1, 2**24, 2**12]))
    named = to.axis != 0 and draw(st.booleans())
    held: Code = source
    if source.storage.bits == 4 and options.get("multiplier") is None:
        levels = Codebook.of(source.storage, source.scale.array, np.arange(-60, 60, 8))
        powers = PowerOfTwo(DType.U4, source.scale)
        held = draw(st.sampled_from([levels, powers]))
    if draw(st.integers(0, 3)) == 0:
        held = in_two_levels(draw, held, shape)
    x = Operand(stored(draw, held, shape, reach), held, named=named)
    try:
        return program(cls(to, **options), x)
    except QirError:
        assume(False)
        raise


def _requantize_blocks(draw: Draw, cls: type[Requantize], shape: tuple[int, ...]) -> Case:
    rng = generator(draw)
    source = Affine.of(DType.I8, rng.uniform(0.1, 1.0, shape))
    blocks = (shape[0] * 2, shape[1] * 3)
    return program(cls(draw(codes(SMALL))), coded_operand(draw, source, blocks))


def _written_out(
    draw: Draw, rounding: str, source: Affine, to: Affine, shape: tuple[int, ...]
) -> dict[str, FrozenArray]:
    try:
        if rounding in ANY_RATIO:
            found = rounding_mode(rounding).multipliers(source.scale.array, to.scale.array)
        else:
            ratio = source.scale.array.astype(np.float64) / to.scale.array
            found = near_multipliers(rounding, ratio)
    except QirError:
        assume(False)
        raise
    flat = found.value.reshape(-1) if found.value.size > 1 else found.value.reshape(())
    written = {"multiplier": FrozenArray(flat)}
    if rounding_mode(rounding).has_shift:
        written["shift"] = FrozenArray(found.shift.reshape(flat.shape))
    return written


@cases_of(Recode)
def recodes(draw: Draw, cls: type[Recode]) -> Case:
    shape = draw(shapes())
    axis = draw(st.integers(0, len(shape) - 1))
    kept = (*SMALL, DType.I32, DType.U32)
    code = draw(codes(kept, shape=shape, axis=axis, far=True))
    kind = draw(st.sampled_from(["turned", "code", "plain", "levels"]))
    to: Element = code.storage
    of: Element = code
    if kind == "levels":
        shape = with_blocks(draw, shape)
        table = level_codes(draw, shape, axis)
        plain = table.storage
        whole = table.range == plain.bounds and draw(st.booleans())
        of, to = (plain, table) if whole else (table, plain)
        return program(cls(to), Operand(stored(draw, table, shape), of))
    if kind == "turned":
        storage, other = draw(st.permutations(BYTES))
        code = draw(codes([storage], shape=shape, axis=axis))
        offset = other.bounds[0] - storage.bounds[0]
        low, high = code.range
        bounds = (low + offset, high + offset)
        of = code
        to = Affine.of(
            other,
            code.scale.array * draw(st.sampled_from([1, 0.5, 3])),
            code.zero_points + offset,
            bounds=draw(st.sampled_from([None, bounds])),
        )
    elif kind == "code":
        to = draw(codes([code.storage], shape=shape, axis=axis, far=True))
        to = Affine(to.storage, to.scale, to.zero_point)
        of = code if draw(st.booleans()) else code.storage
    x = stored(draw, code if isinstance(of, Code) else Affine.of(code.storage, 1), shape)
    named = axis != 0 and draw(st.booleans())
    return program(cls(to), Operand(x, of, constant=draw(st.booleans()), named=named))


@cases_of(Lookup)
def lookups(draw: Draw, cls: type[Lookup]) -> Case:
    code = draw(codes((DType.I2, *NARROW, *BYTES), far=True))
    if draw(st.integers(0, 3)) == 0:
        bounds = draw(st.sampled_from([(-300, 511), (-512, 9), None]))
        code = Affine.of(DType.I16, 0.01, bounds=bounds)
    if draw(st.integers(0, 3)) == 0:
        return lookup(draw, LEVELS[draw(st.sampled_from(list(LEVELS)))])
    return lookup(draw, code)


LEVELS = {
    "nf4": Codebook.named("nf4", 0.3),
    "apot5": Codebook.named("apot5", 0.3),
    "powers": PowerOfTwo.of(4, 0.3, 2),
    "e4m3": Float8E4M3.of(0.1),
    "e5m2": Float8E5M2.of(0.1),
}
"""Codes of one scale whose stored numbers a table may be looked up by."""


@cases_of(Lookup2)
def lookups_of_pairs(draw: Draw, cls: type[Lookup2]) -> Case:
    plain = in_float(draw)

    def operand(shape: tuple[int, ...], **options: bool) -> Operand:
        storage = draw(st.sampled_from(BYTES))
        of = draw(codes([storage]))
        numbers = stored(draw, Affine.of(storage, 1) if plain else of, shape)
        return Operand(numbers, storage if plain or draw(st.booleans()) else of, **options)

    x_shape, y_shape = draw(broadcasting())
    operands = [
        operand(x_shape, named=len(x_shape) > len(y_shape)),
        operand(y_shape, constant=draw(st.booleans())),
        operand((256, 256), constant=draw(st.sampled_from([True, True, False]))),
    ]
    return program(cls(), *operands)


def lookup(draw: Draw, code: Code, entries: Array | None = None, element: Any = None) -> Case:
    """Draws a lookup in a table, a random one where none is given."""
    shape = draw(shapes())
    size = 2 ** index_bits(TensorType(shape, code))
    if entries is None:
        element = draw(
            st.one_of(
                codes((*NARROW, DType.I16, DType.I32), far=True),
                st.sampled_from([DType.F32, DType.I32, DType.BOOL]),
            )
        )
        if isinstance(element, Code):
            entries = stored(draw, element, (size,))
        else:
            entries = (floats(draw, (size,)) * 100).astype(element.numpy)
    table = Operand(entries, element, constant=draw(st.booleans()))
    return program(Lookup(), coded_operand(draw, code, shape, named=draw(st.booleans())), table)


def tabulated(draw: Draw, function: Callable[[Array], Array]) -> Case:
    """Draws what a function of one number becomes on codes: a lookup in its table."""
    storages = draw(st.sampled_from([NARROW, NARROW, WIDE]))
    code, result = draw(codes(storages)), draw(codes(SUMMED))
    bits = code.storage.bits
    every = np.arange(2**bits)
    if code.storage.bounds[0] < 0:
        every = (every + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    with np.errstate(all="ignore"):
        image = function(code.decode(every).astype(np.float64))
        entries = result.encode(np.nan_to_num(image, posinf=3e38, neginf=-3e38))
    return lookup(draw, code, entries, result)
