"""A dot of scales by row and scales by column: exact sums, and both scales behind them."""

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.numbers.rounding import rounding_mode
from qir.ops import Dequantize, Dot, Reshape
from qir.text.printer import to_program
from qir.types import Array
from tests.ops.programs import program

X = "%x: i8[3,5]{scale=[0.5, 0.25, 0.3], axis=0, zp=3}"
Z = "%x: u8[3,5]{scale=[0.5, 0.25, 0.3], axis=0, zp=[3, 255, 0]}"
W = "%x: i16[3,5]{scale=[0.5, 0.25, 0.3], axis=0, zp=[3, -250, 0], bounds=[-300, 300]}"
POINTS = {Z: 255, W: -250}
"""Of the second row, where they vary."""
K = "%k: i8[5,4]{scale=[0.125, 0.7, 0.9, 0.01], axis=1}"
SUMS = "i32[3,4]{scale=%x*%k, parts=[[3, 1], [1, 4]]}"
ROWS = np.array([0.5, 0.25, 0.3], np.float32)
COLUMNS = np.array([0.125, 0.7, 0.9, 0.01], np.float32)


def operands(x: str) -> tuple[Array, Array]:
    rng = np.random.default_rng(7)
    code = program(f"{x}, {K}", f"dot(%x, %k) : {SUMS}").inputs[0].type.code
    first = rng.integers(*code.range, (3, 5), endpoint=True).astype(code.storage.numpy)
    return first, rng.integers(-128, 127, (5, 4)).astype(np.int8)


def sums(x: str, first: Array, second: Array) -> Array:
    points = np.array([[3], [POINTS[x]], [0]] if x in POINTS else 3, np.int64)
    return np.asarray((first - points) @ second.astype(np.int64))


def both_ways(graph: qir.Graph, *arrays: Array) -> list[Array]:
    return [np.asarray(run(graph, *arrays)[0]), np.asarray(qir.compile(graph)(*arrays)[0])]


@pytest.mark.parametrize("x", [X, Z, W])
def test_sums_are_exact(x: str) -> None:
    graph = program(f"{x}, {K}", f"dot(%x, %k) : {SUMS}")
    arrays = operands(x)
    for found in both_ways(graph, *arrays):
        assert np.array_equal(found, sums(x, *arrays))


@pytest.mark.parametrize("x", [X, Z, W])
def test_zero_points_by_row_are_taken_off_constant_weights_too(x: str) -> None:
    first, second = operands(x)
    text = f"""graph @g({x}) {{
  %k = const {second.tolist()} : {K[4:]}
  %y = dot(%x, %k) : {SUMS}
  return %y
}}"""
    for found in both_ways(qir.parse(text), first):
        assert np.array_equal(found, sums(x, first, second))


@pytest.mark.parametrize("rounding", ["fixed31", "f32_rne", "dbl_away"])
def test_each_sum_is_rounded_by_the_multiplier_of_its_row_and_column(rounding: str) -> None:
    graph = qir.parse(f"""graph @g({X}, {K}) {{
  %a = dot(%x, %k) : {SUMS}
  %y = requantize(%a) {{rounding = {rounding}}} : i8[3,4]{{scale=40.0, zp=-5}}
  return %y
}}""")
    first, second = operands(X)
    mode = rounding_mode(rounding)
    wanted = [
        [
            mode.requantize(acc, mode.multipliers(np.float64(row) * column, 40.0), -5, -128, 127)
            for acc, column in zip(line, COLUMNS.astype(np.float64), strict=True)
        ]
        for line, row in zip(sums(X, first, second), ROWS, strict=True)
    ]
    assert np.unique(wanted).size > 4
    for found in both_ways(graph, first, second):
        assert np.array_equal(found, wanted)


def test_floats_are_the_sums_times_the_float32_product_of_scales() -> None:
    graph = qir.parse(f"""graph @g({X}, {K}) {{
  %a = dot(%x, %k) : {SUMS}
  %t = transpose(%a) {{permutation = [1, 0]}} : i32[4,3]{{scale=%x*%k, parts=[[1, 3], [4, 1]]}}
  %y = dequantize(%t) : f32[4,3]
  return %y
}}""")
    arrays = operands(X)
    wanted = sums(X, *arrays).astype(np.float32) * (ROWS[:, None] * COLUMNS)
    for found in both_ways(graph, *arrays):
        assert np.array_equal(found, wanted.T)


@pytest.mark.parametrize(
    "scale",
    [
        f"[{2.0**-130}, {2.0**-125}], axis=1",
        f"{2.0**-130}",
        f"[{2.0**-65}, {2.0**-61}]*[{2.0**-65}, {2.0**-64}], parts=[[2, 1], [1, 2]]",
    ],
)
def test_scales_that_float32_holds_as_denormals_alone_count_as_0(scale: str) -> None:
    graph = program(f"%a: i32[2,2]{{scale={scale}}}", "dequantize(%a) : f32[2,2]")
    array = np.full((2, 2), 2**20, np.int32)
    exact = graph.inputs[0].type.code.scale.array * np.ones((2, 2))
    wanted = np.where(exact < 2.0**-126, 0, exact * 2**20)
    for found in both_ways(graph, array):
        assert np.array_equal(found, wanted)


def test_batches_share_an_axis_of_both_factors() -> None:
    rng = np.random.default_rng(2)
    of_q, of_k = (rng.uniform(0.1, 1, parts).astype(np.float32) for parts in ((2, 3, 1), (2, 1, 4)))
    graph = qir.Graph("scores")
    q = graph.add_input("q", qir.TensorType((2, 3, 5), qir.Affine.of(qir.DType.I8, of_q)))
    k = graph.add_input("k", qir.TensorType((2, 5, 4), qir.Affine.of(qir.DType.I8, of_k)))
    builder = graph.at_end()
    scores = builder.emit(Dot(1), q, k, name="scores")
    flat = builder.emit(Reshape((6, 4)), scores, name="flat")
    graph.set_outputs([builder.emit(Dequantize(), flat, name="y")])
    assert [each.shape for each in scores.type.code.scale.factors] == [(2, 3, 1), (2, 1, 4)]
    # What joins the axis that both have leaves one scale for each number.
    assert [each.shape for each in flat.type.code.scale.factors] == [(6, 4)]
    program = to_program(graph)
    assert qir.parse(program.text, program.arrays) == graph
    arrays = [rng.integers(-128, 127, x.type.known_shape).astype(np.int8) for x in (q, k)]
    exact = np.matmul(*(array.astype(np.int64) for array in arrays))
    wanted = exact.astype(np.float32) * (of_q * of_k)
    for found in both_ways(graph, *arrays):
        assert np.array_equal(found, wanted.reshape(6, 4))


def test_moved_sums_print_their_factors_and_read_back() -> None:
    graph = qir.parse(
        f"""graph @g({X}, {K}) {{
  %a = dot(%x, %k) : {SUMS}
  %s = slice(%a) {{axes = [0], start = [1], limit = [3]}} : i32[2,4]{{scale=[0.25, \
0.30000001192092896]*[0.125, 0.699999988079071, 0.8999999761581421, 0.009999999776482582], \
parts=[[2, 1], [1, 4]]}}
  return %s
}}""".replace("\\\n", "")
    )
    assert qir.parse(str_of(graph)) == graph
    assert "scale=[0.25, 0.30000001192092896]*[0.125, " in str_of(graph)


def str_of(graph: qir.Graph) -> str:
    program = to_program(graph)
    assert not program.arrays
    return program.text


@pytest.mark.parametrize(
    ("inputs", "line", "message"),
    [
        (f"{X}, {K}, %b: i32[4]{{scale=0.1}}", f"dot(%x, %k, %b) : {SUMS}", "expected no bias, as"),
        (
            "%x: u16[3,5]{scale=[0.5, 0.25, 0.3], axis=0, zp=[3, 255, 0]}, %k: i16[5,4]{scale=0.1}",
            "dot(%x, %k) : i64[3,4]{scale=%x*%k, axis=0}",
            "expected one zero point on the first operand of sums in i64",
        ),
        (
            "%x: i8[2,4,1]{scale=[0.5, 0.25], axis=0, zp=[3, 4]}, %k: i8[3,1,1]{scale=0.1}",
            "conv(%x, %k) {padding = valid} : i32[2,2,1]{scale=%x*%k, axis=0}",
            "along rows with one zero point",
        ),
        (f"{X}, {K}", "dot(%x, %k) : i32[3,4]{scale=%x*%k, parts=[[3, 1], [1, 2]]}", "parts for"),
        (f"{X}, {K}", "dot(%x, %k) : i32[3,4]{scale=%x*%k, parts=[[3, 1]]}", "parts for"),
        (f"{X}, {K}", "dot(%x, %k) : i32[3,4]{scale=0.5, parts=[[1, 1]]}", "expected a product"),
        (
            "%a: i32[2048,1024]{scale=@r*@c, parts=[[2048, 1], [1, 1024]]}",
            "requantize(%a) : i8[2048,1024]{scale=0.1}",
            "at most 1,048,576 scales",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(inputs: str, line: str, message: str) -> None:
    arrays = {"r": np.ones(2048), "c": np.ones(1024)}
    with pytest.raises(QirError, match=message):
        qir.parse(f"graph @g({inputs}) {{\n  %y = {line}\n  return %y\n}}", arrays)


def test_a_mode_by_thresholds_refuses_too_many_of_them() -> None:
    multiplier = rounding_mode("fixed31").multipliers(np.full((300, 300), 0.1), 1.0)
    with pytest.raises(QirError, match="90000 multipliers with 255 each"):
        rounding_mode("dbl_away").by_thresholds(multiplier, 0, -128, 127)
