"""Casts, lookups and arithmetic on bytes by generated kernels, against the reference."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

from qir.backends.native.patterns.elementwise import broadcast
from qir.numbers.rounding import Fixed31, Multiplier
from qir.text import parse
from qir.types import Array
from tests.backends.cpu.harness import check
from tests.drawing import examples
from tests.ops.programs import program

SIZES = st.one_of(st.integers(1, 70), st.sampled_from([95, 96, 97, 8192, 20001]))
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.sampled_from([0.5, 0.25, 0.0123, 0.3, 1.0])
RATIOS = st.sampled_from([2.0**-31, 1e-5, 0.01, 0.2, 0.25, 0.5, 0.7, 1.0, 3.0, 300.0, 1e6, 2.0**29])


@st.composite
def codes(draw: st.DrawFn) -> tuple[str, str]:
    """Draws the storage and the spelling of a code of 8 bits."""
    storage = draw(st.sampled_from(["i8", "u8"]))
    low, high = (-128, 127) if storage == "i8" else (0, 255)
    bounds = draw(st.sampled_from([(low, high), (low + 1, high), (low + 20, high - 33)]))
    point = draw(st.one_of(st.sampled_from(bounds), st.integers(*bounds)))
    narrow = "" if bounds == (low, high) else f", bounds={list(bounds)}"
    return storage, f"{{scale={draw(SCALES)}, zp={point}{narrow}}}"


def stored(code: tuple[str, str], shape: int | Sequence[int], seed: int) -> Array:
    """Returns stored numbers, extremes often among them."""
    (parsed,) = program(f"%x: {code[0]}[1]{code[1]}", f"relu(%x) : {code[0]}[1]{code[1]}").inputs
    assert parsed.type.quant is not None
    low, high = parsed.type.quant.range
    drawn = np.random.default_rng(seed).integers(low - 20, high + 21, shape).clip(low, high)
    return drawn.astype(parsed.type.dtype.numpy)


def spelled(code: tuple[str, str], shape: Sequence[int]) -> str:
    return f"{code[0]}[{','.join(map(str, shape))}]{code[1]}"


@given(SIZES, codes(), SEEDS)
def test_quantize(size: int, code: tuple[str, str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(size) * 60).astype(np.float32)
    ties = rng.integers(-600, 600, size).astype(np.float32) * np.float32(0.25)
    x = np.where(rng.random(size) < 0.5, x, ties)
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, 3e38, -3e38], np.float32)
    x = np.where(rng.random(size) < 0.2, rng.choice(special, size), x)
    check(program(f"%x: f32[{size}]", f"quantize(%x) : {spelled(code, [size])}"), x)


@given(SIZES, codes(), SEEDS)
def test_dequantize(size: int, code: tuple[str, str], seed: int) -> None:
    line = f"dequantize(%x) : f32[{size}]"
    check(program(f"%x: {spelled(code, [size])}", line), stored(code, size, seed))


@given(st.integers(1, 50), st.integers(1, 70), SEEDS)
def test_dequantize_of_columns(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.001, 1, columns).round(5).tolist()
    x = rng.integers(-(2**31), 2**31, (rows, columns)).astype(np.int32)
    code = f"{{scale={scales}, axis=1}}"
    line = f"dequantize(%x) : f32[{rows},{columns}]"
    check(program(f"%x: i32[{rows},{columns}]{code}", line), x)


def accumulators(shape: Sequence[int], ratio: float, seed: int) -> Array:
    """Returns int32 of all magnitudes, the extremes, and neighbours of what rounds to a half."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-(2**31), 2**31, shape) >> rng.integers(0, 32, shape)
    halves = np.rint((rng.integers(-300, 300, shape) + 0.5) / ratio) + rng.integers(-1, 2, shape)
    x = np.where(rng.random(shape) < 0.5, x, halves.clip(-(2**31), 2**31 - 1).astype(np.int64))
    extremes = rng.choice(np.array([-(2**31), 2**31 - 1, 0, 1, -1]), shape)
    return np.where(rng.random(shape) < 0.1, extremes, x).astype(np.int32)


@pytest.mark.parametrize("rounding", ["f32_rne", "fixed31"])
@given(size=SIZES, ratio=RATIOS, code=codes(), seed=SEEDS)
def test_requantize(
    rounding: str, size: int, ratio: float, code: tuple[str, str], seed: int
) -> None:
    storage, spelling = code
    scale = float(spelling.split("=")[1].split(",")[0]) * ratio
    attributes = f" {{rounding={rounding}}}" if rounding != "fixed31" else ""
    graph = program(
        f"%x: i32[{size}]{{scale={scale!r}}}",
        f"requantize(%x){attributes} : {storage}[{size}]{spelling}",
    )
    check(graph, accumulators([size], ratio, seed))


@given(st.integers(1, 40), st.integers(1, 70), SEEDS)
def test_requantize_of_columns(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = np.exp2(rng.uniform(-20, 5, columns)).round(7) + 1e-7
    code = f"{{scale={scales.tolist()}, axis=1}}"
    graph = program(
        f"%x: i32[{rows},{columns}]{code}",
        f"requantize(%x) {{clamp=[-100, 90]}} : i8[{rows},{columns}]{{scale=0.5, zp=-7}}",
    )
    check(graph, accumulators([rows, columns], 0.01, seed))


@given(SIZES, codes(), codes(), SEEDS)
def test_requantize_of_bytes(
    size: int, before: tuple[str, str], after: tuple[str, str], seed: int
) -> None:
    line = f"requantize(%x) : {spelled(after, [size])}"
    check(program(f"%x: {spelled(before, [size])}", line), stored(before, size, seed))


@pytest.mark.parametrize(
    ("value", "shift"),
    [
        (2**30, 1),
        (2**31 - 1, 20),
        (2**30, 21),
        (2**30 + 1, 32),
        (2**31 - 1, 33),
        (2**30, 62),
        (0, 1),
    ],
)
def test_terms_give_the_code_of_every_accumulator(value: int, shift: int) -> None:
    multiplier = Multiplier(np.array([value], np.int32), np.array([shift], np.int32))
    form = Fixed31().machine_form(multiplier, 0, -128, 127).high_word()
    assert form is not None
    limit = int(form.limit[0])
    near = Fixed31().thresholds(multiplier, np.arange(-256, 257)[:, None])
    x = np.concatenate([near + offset for offset in (-1, 0, 1)]).reshape(-1)
    x = np.concatenate([x.clip(-(2**31), 2**31 - 1), [-(2**31), 2**31 - 1, 0]])
    held = x.clip(-limit, limit) << int(form.lift[0])
    assert np.all(np.abs(held) <= 2**31)
    found = ((held * int(form.value[0]) >> 32) + int(form.addend[0])) >> int(form.places[0])
    wanted = Fixed31().apply(x, multiplier)
    assert np.array_equal(found.clip(-256, 256), wanted.clip(-256, 256))


@given(SIZES, codes(), SEEDS)
def test_functions_of_one_byte(size: int, code: tuple[str, str], seed: int) -> None:
    type_ = spelled(code, [size])
    x = stored(code, size, seed)
    check(program(f"%x: {type_}", f"relu(%x) : {type_}"), x)
    check(program(f"%x: {type_}", f"clip(%x) {{low=-3.1, high=9.9}} : {type_}"), x)


@pytest.mark.parametrize("storage", ["i8", "u8"])
@pytest.mark.parametrize("size", [3, 256, 300])
def test_lookup(storage: str, size: int) -> None:
    graph = program(f"%x: {storage}[{size}], %t: u8[256]", f"lookup(%x, %t) : u8[{size}]")
    table = np.random.default_rng(0).permutation(256).astype(np.uint8)
    x = np.arange(size).astype(np.uint8).view(np.int8 if storage == "i8" else np.uint8)
    check(graph, x, table)


SHAPES = [
    ((70,), (70,)),
    ((5, 40), (40,)),
    ((5, 3), ()),
    ((2, 4, 4, 24), (2, 1, 1, 24)),
    ((2, 3, 3, 600), (2, 1, 1, 600)),
    ((2, 9, 70), (2, 9, 1)),
    ((3, 50, 60), (1, 1, 60)),
    ((1, 1, 1, 8), (2, 5, 5, 8)),
    ((3, 700), (1, 700)),
]


@pytest.mark.parametrize("op", ["add", "sub", "maximum", "minimum"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@examples(20)
@given(codes(), codes(), codes(), SEEDS)
def test_pairs(
    op: str,
    shapes: tuple[Sequence[int], Sequence[int]],
    first: tuple[str, str],
    second: tuple[str, str],
    result: tuple[str, str],
    seed: int,
) -> None:
    if op in ("maximum", "minimum"):
        second = result = first
    x, y = shapes
    inputs = f"%x: {spelled(first, x)}, %y: {spelled(second, y)}"
    line = f"{op}(%x, %y) : {spelled(result, np.broadcast_shapes(tuple(x), tuple(y)))}"
    check(program(inputs, line), stored(first, x, seed), stored(second, y, seed + 1))


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@examples(20)
@given(codes(), codes(), codes(), SEEDS)
def test_products_and_their_rounding(
    shapes: tuple[Sequence[int], Sequence[int]],
    first: tuple[str, str],
    second: tuple[str, str],
    result: tuple[str, str],
    seed: int,
) -> None:
    shape = np.broadcast_shapes(*map(tuple, shapes))
    wide = f"i32[{','.join(map(str, shape))}]{{scale=%x*%y}}"
    inputs = f"%x: {spelled(first, shapes[0])}, %y: {spelled(second, shapes[1])}"
    products = program(inputs, f"mul(%x, %y) : {wide}")
    rounded = parse(
        f"graph @rounded({inputs}) {{\n  %p = mul(%x, %y) : {wide}\n"
        f"  %r = requantize(%p) : {spelled(result, shape)}\n  return %r\n}}"
    )
    for graph in (products, rounded):
        check(graph, stored(first, shapes[0], seed), stored(second, shapes[1], seed + 1))


@given(SIZES, codes(), codes(), codes(), SEEDS)
def test_sums_of_any_size(
    size: int,
    first: tuple[str, str],
    second: tuple[str, str],
    result: tuple[str, str],
    seed: int,
) -> None:
    inputs = f"%x: {spelled(first, [size])}, %y: {spelled(second, [size])}"
    graph = program(inputs, f"add(%x, %y) : {spelled(result, [size])}")
    check(graph, stored(first, size, seed), stored(second, size, seed + 1))


def test_broadcast_of_alternating_axes_has_no_kernel() -> None:
    assert broadcast((2, 3, 4, 5), (3, 1, 5)) is None
    assert broadcast((2, 3, 4), (2, 1, 4)) is not None
