from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import qir
from qir.analysis.reach import StoredReach
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.ir import Graph
from qir.numbers.interval import Interval
from qir.numbers.quantize_mode import fused_multiply_add
from qir.ops import Lookup2
from qir.types import Affine, Array, DType, Element, TensorType
from tests.ops.programs import program

INPUTS = """
  %x: i8[B,4]{scale=0.5, zp=3}, %y: u8[4], %p: i8[1,4], %h: i16[B,4], %t: i8[256,256]{scale=0.25},
  %n: u8[256,256], %s: i8[256,2], %w: i32[256,256],
  %c: i8[256,256]{scale=<SCALES>, axis=0}
""".replace("<SCALES>", str([0.5] * 255 + [0.25]))


@pytest.mark.parametrize(
    "line",
    [
        "lookup2(%x, %y, %t) : i8[B,4]{scale=0.25}",
        "lookup2(%y, %x, %n) : u8[B,4]",
        "lookup2(%p, %y, %n) : u8[1,4]",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lookup2(%h, %y, %t) : i8[B,4]{scale=0.25}", "integers of 8 bits, got i16"),
        ("lookup2(%x, %y, %w) : i32[B,4]", "integers of 8 bits, got i32"),
        ("lookup2(%x, %y, %s) : i8[B,4]", r"a table of shape \[256,256\], got i8\[256,2\]"),
        ("lookup2(%x, %t, %t) : i8[B,4]", "don't broadcast"),
        ("lookup2(%x, %y, %c) : i8[B,4]", "a table with one code"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


def of_pairs(
    function: Callable[[Array, Array], Any],
    elements: Sequence[Element],
    x_shape: tuple[int, ...] = (256, 1),
    y_shape: tuple[int, ...] = (256,),
    stored: bool = False,
) -> Graph:
    """The program of a function of two tensors, by default of all pairs of bytes."""
    graph, (x, y, to) = Graph("pairs"), elements
    operands = (
        graph.add_input("x", TensorType(x_shape, x)),
        graph.add_input("y", TensorType(y_shape, y)),
    )
    builder = graph.at_end()
    graph.set_outputs([builder.lookup2(function, *operands, to, stored=stored, name="f")])
    return graph


def every(storage: DType) -> Array:
    return np.arange(256, dtype=np.uint8).view(storage.numpy)


def test_a_function_of_real_numbers_is_encoded() -> None:
    x, y = Affine.of(DType.I8, 0.1, 5), Affine.of(DType.U8, 0.05, 200)
    to = Affine.of(DType.I8, 0.02, -3, bounds=(-127, 127))
    graph = of_pairs(np.arctan2, [x, y, to])
    a, b = every(DType.I8)[:, None], every(DType.U8)
    expected = to.encode(np.arctan2(x.decode(a).astype(float), y.decode(b).astype(float)))
    for (found,) in (run(graph, a, b), qir.compile(graph)(a, b)):
        assert found.dtype == np.int8
        assert np.array_equal(found, expected)


def test_a_function_of_stored_numbers_is_stored() -> None:
    x, y = Affine.of(DType.I8, 0.1, 5), Affine.of(DType.U8, 0.05, 200)
    graph = of_pairs(lambda a, b: (a * b) & 127, [x, y, DType.U8], stored=True)
    a, b = every(DType.I8)[:, None], every(DType.U8)
    expected = (a.astype(np.int64) * b) & 127
    for (found,) in (run(graph, a, b), qir.compile(graph)(a, b)):
        assert np.array_equal(found, expected)


def test_plain_operands_stand_for_themselves() -> None:
    graph = of_pairs(np.maximum, [DType.I8, DType.U8, DType.U8])
    a, b = every(DType.I8)[:, None], every(DType.U8)
    assert np.array_equal(run(graph, a, b)[0], np.maximum(a.astype(int), b))


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [((2, 1, 5), (3, 1)), ((1,), (2, 3)), ((4, 3), (4, 3)), ((), (2, 2)), ((0, 3), (1, 3))],
)
def test_operands_broadcast(x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    graph = of_pairs(np.subtract, [Affine.of(DType.I8, 1.0)] * 3, x_shape, y_shape)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in (x_shape, y_shape))
    expected = np.clip(a.astype(int) - b, -128, 127)
    for (found,) in (run(graph, a, b), qir.compile(graph)(a, b)):
        assert np.array_equal(found, expected)


def test_what_no_table_can_hold_is_refused() -> None:
    code, varying = Affine.of(DType.I8, 0.5), Affine.of(DType.I8, np.array([[0.5, 0.25]]))
    with pytest.raises(QirError, match=r"undefined for 0\.0 and 0\.0"), np.errstate(all="ignore"):
        of_pairs(np.divide, [code] * 3)
    with pytest.raises(QirError, match=r"values are integers in \[-128, 127\]"):
        of_pairs(np.add, [DType.I8] * 3)
    with pytest.raises(QirError, match="operands with one code"):
        of_pairs(np.add, [varying, code, code], x_shape=(1, 2))


def test_bounds_follow_from_the_table_and_the_operands() -> None:
    assert Lookup2().interval(
        Interval.of(0, 1), Interval.of(0, 1), Interval.of(-2, np.array([1.0, 3.0]))
    ).bounds == (-2, 3)
    narrow = Affine.of(DType.I8, 1.0, bounds=(-2, 3))
    graph = of_pairs(np.add, [narrow, narrow, Affine.of(DType.I8, 1.0)])
    assert StoredReach.of(graph)[graph.outputs[0]] == (-4, 6)


def test_kernels_leave_it_to_xla() -> None:
    pytest.importorskip("llvmlite")
    code = Affine.of(DType.I8, 1.0)
    compiled = qir.compile(of_pairs(np.add, [code] * 3), kernels=True)
    assert "no kernel for lookup2" in str(compiled.partition())


CODES = {
    "i8": [(0.0123, 5), (0.037, -17), (0.021, 3)],
    "u8": [(0.5, 128), (0.25, 127), (0.75, 131)],
    "i8, ties": [(0.5, 1), (0.5, -128), (1.0, 1)],
    "u8, far": [(0.003, 0), (1.7, 255), (0.9, 77)],
}


def onnx_runtime(kind: str, codes: list[Affine], *inputs: Array) -> Array:
    """What ONNX Runtime computes of two tensors of bytes."""
    runtime = pytest.importorskip("onnxruntime")
    helper = pytest.importorskip("onnx").helper
    element = {DType.I8: 3, DType.U8: 2}[codes[0].storage]
    parameters = [
        part
        for name, code in zip("abc", codes, strict=True)
        for part in (
            helper.make_tensor(f"{name}_scale", 1, [], [float(code.scale.array)]),
            helper.make_tensor(f"{name}_point", element, [], [int(code.zero_points)]),
        )
    ]
    names = ["a", "a_scale", "a_point", "b", "b_scale", "b_point", "c_scale", "c_point"]
    node = helper.make_node(kind, names, ["c"], domain="com.microsoft")
    graph = helper.make_graph(
        [node],
        "pairs",
        [helper.make_tensor_value_info(name, element, ["n"]) for name in "ab"],
        [helper.make_tensor_value_info("c", element, ["n"])],
        parameters,
    )
    domains = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8).SerializeToString()
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(zip("ab", inputs, strict=True)))[0])


def linear_add(a: Array, b: Array, x: Affine, y: Affine, to: Affine) -> Array:
    """QLinearAdd: rne(fma(rA, a, fma(rB, b, zC - fma(rA, zA, rB * zB)))) in float32."""
    ra, rb = (np.float32(code.scale.array / to.scale.array) for code in (x, y))
    za, zb, zc = (np.float32(code.zero_points) for code in (x, y, to))
    offset = zc - fused_multiply_add(ra, za, rb * zb)
    total = fused_multiply_add(ra, a, fused_multiply_add(rb, b, offset))
    return np.clip(np.rint(total), *to.range)


def linear_mul(a: Array, b: Array, x: Affine, y: Affine, to: Affine) -> Array:
    """QLinearMul: rne(P * r + zC) in float32, the zero point before the rounding, not fused."""
    ratio = np.float32(x.scale.array * y.scale.array) / to.scale.array
    product = ((a - int(x.zero_points)) * (b - int(y.zero_points))).astype(np.float32)
    total = product * np.float32(ratio) + np.float32(to.zero_points)
    found: Array = np.clip(np.rint(total), *to.range)
    return found


@pytest.mark.parametrize(("kind", "function"), [("Add", linear_add), ("Mul", linear_mul)])
@pytest.mark.parametrize("name", CODES)
def test_the_arithmetic_of_onnx_runtime_is_a_table(
    name: str, kind: str, function: Callable[..., Array]
) -> None:
    storage = DType(name[:2])
    codes = [Affine.of(storage, scale, point) for scale, point in CODES[name]]
    a, b = (side.ravel() for side in np.meshgrid(every(storage), every(storage), indexing="ij"))
    graph = of_pairs(lambda a, b: function(a, b, *codes), codes, a.shape, b.shape, stored=True)
    expected = onnx_runtime(f"QLinear{kind}", codes, a, b)
    for (found,) in (run(graph, a, b), qir.compile(graph)(a, b)):
        assert np.count_nonzero(found != expected) == 0
