from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from qir.errors import QirError
from qir.numbers.quantize_mode import (
    QUANTIZE_MODES,
    fused_multiply_add,
    in_order,
    ordered,
    quantize_mode,
    register_quantize_mode,
    thresholds,
)
from qir.ops import Quantize
from qir.types import Affine, Array, Codebook, DType

CODES = {
    "i8": Affine.of(DType.I8, 0.0123, 5),
    "u8, odd": Affine.of(DType.U8, 1 / 3, 127),
    "power of two": Affine.of(DType.I8, 0.25, -127),
    "i16": Affine.of(DType.I16, 0.3, 12345),
    "narrow": Affine.of(DType.I4, 0.7, 1, bounds=(-7, 7)),
    "least scale": Affine.of(DType.U8, 2.0**-125, 101),
    "greatest scale": Affine.of(DType.U8, 2.0**125, 101),
    "far below 0": Affine.of(DType.U8, 0.3, 300),
    "far above 0": Affine.of(DType.I8, 0.0123, -5000),
    "channels": Affine.of(DType.I8, np.array([[0.1, 0.5, 3.0]]), np.array([[0, 3, -127]])),
}
SPECIAL = np.array(
    [np.nan, -np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 3.4e38, -3.4e38],
    np.float32,
)


def around_thresholds(code: Affine) -> Array:
    """The thresholds of all modes and their neighbours, with ties: [numbers, scales]."""
    found = []
    for name in QUANTIZE_MODES:
        places = thresholds(name, code).T
        found += [places - 1, places, places + 1]
    x = in_order(np.concatenate(found).astype(np.int32))
    special = np.broadcast_to(SPECIAL[:, None], (len(SPECIAL), x.shape[1]))
    return np.concatenate([x, special])


@pytest.mark.parametrize("rounding", QUANTIZE_MODES)
@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_a_mode_steps_up_at_its_thresholds(code: Affine, rounding: str) -> None:
    found, mode, (low, high) = thresholds(rounding, code).T, quantize_mode(rounding), code.range
    wanted = np.broadcast_to(np.arange(low + 1, high + 1)[:, None], found.shape)
    # From infinity, a code with steps of 2^125 takes many at once.
    assert np.all(mode(in_order(found), code) >= wanted)
    assert np.all(mode(in_order(found - 1), code) < wanted)


@pytest.mark.parametrize("rounding", QUANTIZE_MODES)
@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_stored_numbers_come_back(code: Affine, rounding: str) -> None:
    low, high = code.range
    stored = np.repeat(np.arange(low, high + 1)[:, None], code.scale.array.size, axis=1)
    with np.errstate(over="ignore"):
        real = code.decode(stored)
    back = quantize_mode(rounding)(real, code)
    assert np.array_equal(back[np.isfinite(real)], stored[np.isfinite(real)])


@pytest.mark.parametrize("rounding", QUANTIZE_MODES)
@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_special_numbers_saturate_and_nan_is_the_zero_point(code: Affine, rounding: str) -> None:
    low, high = code.range
    x = np.repeat(SPECIAL[:, None], code.scale.array.size, axis=1)
    found = quantize_mode(rounding)(x, code).astype(np.int64)
    # A zero point that is no stored number saturates too.
    points = np.clip(np.broadcast_to(code.zero_points.reshape(-1), found.shape[1]), low, high)
    assert found.dtype == np.int64
    assert np.array_equal(found[:2], [points, points])
    assert np.all(found[2] == high)
    assert np.all(found[3] == low)
    if rounding != "zero_point_first":
        assert np.all(found[4:9] == points)


def test_the_modes_differ_where_their_sources_do() -> None:
    code = Affine.of(DType.I8, 0.5, 3)
    x = np.array([0.25, 0.75, -0.25, -0.75], np.float32)
    assert {name: mode(x, code).tolist() for name, mode in QUANTIZE_MODES.items()} == {
        "reciprocal": [3, 5, 3, 1],
        "divide": [3, 5, 3, 1],
        "half_away": [4, 5, 2, 1],
        "zero_point_first": [4, 4, 2, 2],
    }
    code = Affine.of(DType.I8, 0.3)
    x = around_thresholds(code)[:, 0]
    assert np.any(QUANTIZE_MODES["reciprocal"](x, code) != QUANTIZE_MODES["divide"](x, code))


def fractions() -> Iterator[tuple[np.float32, np.float32, int]]:
    rng = np.random.default_rng(0)
    for exponent in range(-149, 100, 3):
        for _ in range(20):
            a = np.float32(rng.uniform(-2, 2) * 2.0**exponent)
            b = np.float32(rng.uniform(0.5, 1) * 2.0 ** rng.integers(-20, 20))
            yield a, b, int(rng.integers(-70000, 70000))


def test_a_multiply_add_rounds_once() -> None:
    for a, b, c in fractions():
        exact = Fraction(float(a)) * Fraction(float(b)) + c
        found = fused_multiply_add(a, b, c)
        distance = abs(Fraction(float(found)) - exact)
        for side in (-np.inf, np.inf):
            other = Fraction(float(np.nextafter(found, np.float32(side))))
            assert distance < abs(other - exact) or (
                distance == abs(other - exact) and int(found.view(np.int32)) % 2 == 0
            )


def test_a_multiply_add_is_not_rounded_to_float64_first() -> None:
    # 1 + 2^-24 is a tie of float32, which the product is just above and float64 is not.
    a, b = np.float32(2.0**-24 + 2.0**-47), np.float32(1 + 2.0**-23)
    assert fused_multiply_add(a, b, 1) == np.float32(1 + 2.0**-23)
    low = np.float32(2.0**-24), np.float32(1 - 2.0**-24)
    assert fused_multiply_add(*low, 1) == 1
    tiny = np.float32(2.0**-60)
    assert fused_multiply_add(tiny, 1, 1 + 2.0**-23 - 2.0**-24) == np.float32(1 + 2.0**-23)


def test_floats_have_an_order() -> None:
    x = np.array([-np.inf, -1, -1e-45, -0.0, 0.0, 1e-45, 1, np.inf], np.float32)
    assert np.all(np.diff(ordered(x).astype(np.int64)) > 0)
    assert np.array_equal(in_order(ordered(x)).view(np.int32), x.view(np.int32))


def test_an_unknown_mode_is_refused_by_name() -> None:
    code = Affine.of(DType.I8, 0.5)
    with pytest.raises(QirError, match=r"got 'half_awy'; did you mean 'half_away'\?"):
        Quantize(code, "half_awy")
    levels = Codebook.of(DType.I4, 0.5, [-3, 0, 5])
    with pytest.raises(QirError, match=r"reciprocal for a code of kind codebook, got divide"):
        Quantize(levels, "divide")
    in_two_levels = Affine.of(DType.I8, 0.5, multipliers=[[1, 3]])
    with pytest.raises(QirError, match=r"reciprocal for a scale of two levels, got half_away"):
        Quantize(in_two_levels, "half_away")
    with pytest.raises(QirError, match=r"'divide' is already declared"):
        register_quantize_mode("divide")(QUANTIZE_MODES["divide"])
    with pytest.raises(QirError, match=r"letters, digits and '_', got 'half away'"):
        register_quantize_mode("half away")(QUANTIZE_MODES["divide"])


@pytest.mark.parametrize("scale", [0.0123, 1 / 3, 0.25, 7.77, 1.9e-7])
@pytest.mark.parametrize(("storage", "point"), [("i8", -5), ("u8", 127), ("i8", 0)])
def test_divide_is_what_onnx_runtime_computes(scale: float, storage: str, point: int) -> None:
    runtime = pytest.importorskip("onnxruntime")
    helper = pytest.importorskip("onnx").helper
    code = Affine.of(DType(storage), scale, point)
    kind = {"i8": 3, "u8": 2}[storage]
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    graph = helper.make_graph(
        [node],
        "quantize",
        [helper.make_tensor_value_info("x", 1, ["n"])],
        [helper.make_tensor_value_info("y", kind, ["n"])],
        [
            helper.make_tensor("s", 1, [], [float(code.scale.array)]),
            helper.make_tensor("z", kind, [], [point]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = around_thresholds(code)[:, 0]
    x = np.concatenate([x, np.random.default_rng(0).normal(0, 100 * scale, 10000)])
    # The conversion of what no integer holds is the processor's there.
    x = x[np.abs(x) < 2.0**30 * scale].astype(np.float32)
    (found,) = session.run(None, {"x": x})
    assert np.array_equal(found, QUANTIZE_MODES["divide"](x, code))
    assert np.any(found != QUANTIZE_MODES["half_away"](x, code))
