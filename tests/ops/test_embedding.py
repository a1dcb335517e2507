"""embedding: rows of a table, each with a scale of its own, rounded once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.numbers.rounding import requantize, rounding_mode
from tests.ops.programs import program

INPUTS = """
  %f: f32[4,6], %i: i32[2,3], %n: u8[], %x: f32[4], %e: f32[0,6], %b: bool[4,6],
  %r: i8[3,2]{scale=[0.5, 0.25, 1.0], axis=0}, %t: i4[3,2]{scale=0.5},
  %c: i8[3,2]{scale=[0.5, 0.25], axis=1}, %z: i8[3,2]{scale=0.5, zp=1},
  %k: i8[4,2]{scale=[0.5, 0.25], blocks=[2, 2]}, %h: i8[3,2]{scale=0.5, as=f16},
  %l: i2[3,2]{kind=codebook, scale=0.5, levels=[-1.5, 0.0, 1.0]},
  %m: i8[3,4]{scale=[0.5, 0.25, 1.0], axis=0, multipliers=[[1, 2], [3, 4], [255, 1]]},
  %p: u8[3,2]{scale=[0.5, 0.25, 1.0], axis=0, zp=[3, 128, 255]}
"""
WIDE = "i32[2,3,2]{scale=0.0001, bounds=[-131071, 131071]}"


@pytest.mark.parametrize(
    "line",
    [
        "embedding(%f, %i) : f32[2,3,6]",
        "embedding(%f, %n) {factor = 8.0} : f32[6]",
        "embedding(%x, %i) : f32[2,3]",
        "embedding(%r, %i) : f32[2,3,2]",
        "embedding(%h, %n) : f16[2]",
        "embedding(%r, %i) : i8[2,3,2]{scale=0.1, zp=3}",
        "embedding(%t, %i) : u8[2,3,2]{scale=0.1, zp=128}",
        f"embedding(%r, %i) : {WIDE}",
        "embedding(%c, %i) : i8[2,3,2]{scale=0.1}",
        "embedding(%k, %i) : i8[2,3,2]{scale=0.1}",
        "embedding(%k, %i) : f32[2,3,2]",
        "embedding(%z, %i) : i8[2,3,2]{scale=0.1}",
        "embedding(%l, %i) : f32[2,3,2]",
        "embedding(%m, %i) : i16[2,3,4]{scale=0.1}",
        "embedding(%m, %i) : f32[2,3,4]",
        "embedding(%p, %i) : i8[2,3,2]{scale=0.1}",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("embedding(%e, %i) : f32[2,3,6]", "at least one row"),
        ("embedding(%f, %x) : f32[4,6]", "plain integers as ids"),
        ("embedding(%b, %i) : bool[2,3,6]", "a table of floats or with a code"),
        ("embedding(%f, %i) : i8[2,3,6]{scale=0.1}", "a table of floats or with a code"),
        ("embedding(%l, %i) : i8[2,3,2]{scale=0.1}", "no integers times a scale; dequantize it"),
        ("embedding(%r, %i) : i32[2,3,2]{scale=0.1}", "in i32 with bounds"),
        ("embedding(%h, %i) : i8[2,3,2]{scale=0.1}", "a code that stands for f16, got f32"),
        ("embedding(%r, %i) {factor = 0.0} : f32[2,3,2]", "a factor above 0 and finite, got 0.0"),
        ("embedding(%r, %i) {factor = inf} : f32[2,3,2]", "a factor above 0 and finite, got inf"),
    ],
)
def test_types_that_do_not_fit(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


ROWS = np.array([[127, -64], [0, 0], [1, -127]], np.int8)
SCALES = np.array([0.5, 0.25, 0.002])


@pytest.mark.parametrize(
    "to", ["i8[4,2]{scale=0.51, zp=-3}", "i32[4,2]{scale=0.001953125, bounds=[-131071, 131071]}"]
)
def test_each_row_is_rounded_once_by_its_own_multiplier(to: str) -> None:
    line = f"embedding(%t, %i) {{factor = 3.0}} : {to}"
    code = qir.parse(f"graph @g(%x: {to}) {{\n  return %x\n}}").inputs[0].type.affine
    types = "%t: i8[3,2]{scale=[0.5, 0.25, 0.002], axis=0}, %i: i32[4]"
    (found,) = run(program(types, line), ROWS, np.array([2, 0, 1, 0], np.int32))
    multipliers = [
        rounding_mode("fixed31").multipliers(np.float64(np.float32(scale)) * 3.0, code.scale.array)
        for scale in SCALES
    ]
    expected = [
        requantize(ROWS[row], multipliers[row], code.zero_points, *code.range)
        for row in (2, 0, 1, 0)
    ]
    assert np.array_equal(found, expected)


def test_rows_without_a_code_are_dequantized() -> None:
    types = "%t: i8[3,2]{scale=[0.5, 0.25, 0.002], axis=0}, %i: i32[3]"
    graph = program(types, "embedding(%t, %i) : f32[3,2]")
    (found,) = run(graph, ROWS, np.arange(3, dtype=np.int32))
    assert np.array_equal(found, ROWS.astype(np.float32) * SCALES.astype(np.float32)[:, None])
    assert qir.explain(graph).summary == "1 of 1 ops integer"


@pytest.mark.parametrize(
    "table",
    [
        "u8[4,4]{scale=[0.5, 0.25, 1.0, 2.0], axis=0, zp=[3, 128, 255, 0]}",
        "i8[4,4]{scale=[0.5, 0.25], axis=0, blocks=[2, 4], multipliers=[[1, 7], [255, 3]]}",
        "i8[4,4]{scale=[0.5, 0.25, 1.0, 2.0], axis=1, multipliers=[[9, 200]]}",
        "u4[4,4]{kind=power_of_two, scale=0.5, multipliers=[[1], [3], [5], [7]]}",
        "u4[4,4]{kind=codebook, scale=0.5, levels=nf4}",
    ],
)
def test_rows_of_any_code_are_those_of_the_decoded_table(table: str) -> None:
    ids = np.array([3, 0, -5, 2, 9, 1], np.int32)
    decoded = program(f"%t: {table}", "dequantize(%t) : f32[4,4]")
    code = decoded.inputs[0].type.code
    stored = np.random.default_rng(3).integers(*code.range, (4, 4), endpoint=True)
    stored = stored.astype(code.storage.numpy)
    graph = program(f"%t: {table}, %i: i32[6]", "embedding(%t, %i) : f32[6,4]")
    (whole,) = run(decoded, stored)
    for (found,) in (run(graph, stored, ids), qir.compile(graph)(stored, ids)):
        assert np.array_equal(found, whole[ids.clip(0, 3)])


@pytest.mark.parametrize("to", ["i8[6,4]{scale=0.7, zp=-3}", "i16[6,4]{scale=0.013}"])
def test_rows_of_two_levels_are_rounded_once(to: str) -> None:
    table = "i8[3,4]{scale=[0.5, 0.25, 1.0], axis=0, multipliers=[[1, 2], [3, 40], [255, 1]]}"
    graph = program(f"%t: {table}, %i: i32[6]", f"embedding(%t, %i) : {to}")
    code, result = graph.inputs[0].type.code, graph.outputs[0].type.affine
    stored = np.random.default_rng(5).integers(-128, 127, (3, 4)).astype(np.int8)
    ids = np.array([2, 0, 1, 1, 0, 2], np.int32)
    scales = np.array([[0.5], [0.25], [1.0]])
    steps = code.steps(stored)
    assert np.array_equal(
        steps, stored * np.array([[1, 1, 2, 2], [3, 3, 40, 40], [255, 255, 1, 1]])
    )
    wanted = requantize(
        steps,
        rounding_mode("fixed31").multipliers(scales, result.scale.array),
        result.zero_points,
        *result.range,
    )
    for (found,) in (run(graph, stored, ids), qir.compile(graph)(stored, ids)):
        assert np.array_equal(found, wanted[ids])


IDS = np.array([[0, 49, 50, 1000, -1, -50, -51, -(2**31), 2**31 - 1]], np.int32)


@pytest.mark.parametrize("mode", [None, "clip"])
def test_ids_outside_of_the_table_mean_what_they_mean_to_jax(mode: str | None) -> None:
    table = np.random.default_rng(11).normal(0, 1, (50, 4)).astype(np.float32)

    def model(ids):
        # An index by brackets counts negative ids from the end.
        return jnp.take(table, ids, axis=0, mode=mode) if mode else jnp.asarray(table)[ids]

    graph = qir.from_jax(model, IDS, batch="B")
    assert "embedding" in [node.op.name for node in graph.nodes]
    (floats,) = qir.evaluate(graph, IDS)
    assert np.array_equal(floats, jax.jit(model)(IDS))
    integer = qir.quantize(graph, [IDS])
    (rows,) = qir.evaluate(integer, IDS)
    assert np.abs(rows - floats).max() <= np.abs(table).max() / 254 * (1 + 2**-10)
    assert np.array_equal(np.asarray(qir.compile(integer)(IDS)[0]), rows)
