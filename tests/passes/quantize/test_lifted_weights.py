"""Products between codes whose weights have codes of every kind."""

import numpy as np
import pytest

import qir
from qir.analysis.properties import is_float_op
from qir.backends.reference.interpreter import run
from qir.ops import Conv, Dequantize, Dot, Quantize
from qir.types import Affine, Codebook, DType, Float8E4M3, PowerOfTwo, tensor

RNG = np.random.default_rng(11)
KERNEL = RNG.normal(0, 0.5, (8, 6)).astype(np.float32)
X = RNG.normal(0, 1, (64, 8)).astype(np.float32)
BIAS = RNG.normal(0, 1, 6).astype(np.float32)
COLUMNS = (1, 6)
SCALES = np.abs(KERNEL).max(axis=0, keepdims=True).astype(np.float32) / 120
POINTS = RNG.integers(100, 150, COLUMNS)

EXACT = {
    "per tensor": Affine.fit(KERNEL),
    "per column": Affine.fit(KERNEL, COLUMNS),
    "i4 in blocks of two levels": Affine.fit(KERNEL, (2, 6), 4).in_two_levels(COLUMNS),
    "u8, a zero point for each column": Affine.of(DType.U8, SCALES, POINTS),
    "i8, one zero point": Affine.of(DType.I8, float(SCALES.max()), 7),
    "i16": Affine.fit(KERNEL, COLUMNS, 16),
    "powers of two": PowerOfTwo.fit(KERNEL, COLUMNS, 4),
    "sums of powers of two": Codebook.named("apot4", 0.01),
}
FLOAT = {
    "nf4": (Codebook.named("nf4", 1.5), "no integers times a scale"),
    "fp8": (Float8E4M3.fit(KERNEL, COLUMNS), "no integers times a scale"),
    "blocks of one level": (Affine.fit(KERNEL, (2, 6), 4), "scales along the summed axis"),
}


def product(code, bias=None):
    """Returns quantize(dot(dequantize(x), dequantize(kernel))) of 8 bits."""
    graph = qir.Graph("product")
    x, builder = graph.add_input("x", tensor(X)), graph.at_end()
    xd = builder.emit(Dequantize(), builder.emit(Quantize(Affine.of(DType.I8, 0.025, 3)), x))
    kernel = builder.const(code.encode(KERNEL), "kernel", code)
    operands = [xd, builder.emit(Dequantize(), kernel)]
    operands += [] if bias is None else [builder.const(bias, "bias")]
    y = builder.emit(Dot(), *operands)
    graph.set_outputs([builder.emit(Quantize(Affine.of(DType.I8, 0.0301, -9)), y)])
    return graph


@pytest.mark.parametrize("bias", [None, BIAS], ids=["no bias", "bias"])
@pytest.mark.parametrize("code", EXACT.values(), ids=EXACT)
def test_weights_whose_sums_are_exact_are_lifted_within_a_rounding(code, bias):
    floats = product(code, bias)
    lifted = qir.optimize(floats, "lift-qdq, check-overflow")
    assert not any(map(is_float_op, lifted.nodes))
    assert any(value.type.quant == code for value in lifted.values())

    (meant,), (found,) = run(floats, X, precision=np.float64), run(lifted, X)
    # Float32 sums of eight terms and a bias of whole steps move what lies near to a tie.
    off = np.abs(meant.astype(int) - found)
    assert off.max() <= 1
    assert np.mean(off > 0) < 0.02


@pytest.mark.parametrize(("code", "reason"), FLOAT.values(), ids=FLOAT)
def test_weights_whose_sums_are_no_integers_stay_float_and_say_why(code, reason):
    lifted = qir.optimize(product(code), "lift-qdq")
    (line,) = qir.explain(lifted).floats
    assert line.op == "dot"
    assert reason in line.reason


def test_a_convolution_pads_with_the_zero_points_of_both_operands():
    image = RNG.normal(0, 1, (2, 5, 5, 4)).astype(np.float32)
    kernel = RNG.normal(0, 0.5, (3, 3, 2, 6)).astype(np.float32)
    graph = qir.Graph("padded")
    x, builder = graph.add_input("x", tensor(image)), graph.at_end()
    xq = builder.emit(Quantize(Affine.of(DType.U8, 0.025, 100), "divide"), x)
    code = Affine.of(DType.U8, np.full((1, 1, 1, 6), 0.02), RNG.integers(90, 160, (1, 1, 1, 6)))
    weights = builder.const(code.encode(kernel), "kernel", code)
    operands = [builder.emit(Dequantize(), value) for value in (xq, weights)]
    y = builder.emit(Conv(padding="same", groups=2), *operands)
    graph.set_outputs([builder.emit(Quantize(Affine.of(DType.U8, 0.0301, 77), "divide"), y)])

    lifted = qir.optimize(graph, "lift-qdq")
    assert [node.op.name for node in lifted.nodes if node.outputs] == [
        "quantize",
        "const",
        "conv",
        "requantize",
    ]
    (meant,), (found,) = run(graph, image, precision=np.float64), run(lifted, image)
    off = np.abs(meant.astype(int) - found)
    assert off.max() <= 1
    assert np.mean(off > 0) < 0.01


def test_a_bias_of_i32_keeps_its_steps_where_its_scale_is_the_float32_product():
    code, scale = EXACT["per column"], np.float32(0.025)
    floats = product(code, BIAS)
    steps = RNG.integers(-1000, 1000, 6).astype(np.int32)
    rounded = Affine.of(DType.I32, scale * code.scale.array.reshape(-1))
    (old,) = (value for value in floats.values() if value.name == "bias")
    builder = floats.before(old.users[0])
    old.replace_with(builder.emit(Dequantize(), builder.const(steps, "steps", rounded)))

    lifted = qir.optimize(floats, "lift-qdq(round_bias=false)")
    assert not any(map(is_float_op, lifted.nodes))
    assert np.array_equal(lifted.value("steps").array, steps)
