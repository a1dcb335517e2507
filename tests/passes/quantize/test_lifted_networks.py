"""Networks that are taken apart into quantize and dequantize are lifted to what they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.analysis.properties import is_float_op
from qir.ops import Dequantize, Dot, Quantize
from qir.types import Affine, DType, tensor
from tests.qdq import Qdq

RNG = np.random.default_rng(5)
IMAGES = [RNG.normal(0, 1, (4, 12, 12, 3)).astype(np.float32) for _ in range(3)]


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(np.float32)


KERNELS = [normal(3, 3, 3, 16), normal(3, 3, 1, 16), normal(1, 1, 16, 16), normal(1, 1, 16, 8)]
HEAD, BIAS, STEM_BIAS = normal(24, 10), normal(10), normal(16)


def conv(x, kernel, groups=1, stride=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def cnn(x):
    """Residual, depthwise and pointwise convolutions, a gate, a concat, pools and a softmax."""
    x = jnp.clip(conv(x, KERNELS[0], stride=2) + STEM_BIAS, 0, 6)
    y = jax.nn.relu(conv(x, KERNELS[1], groups=16))
    x = x + conv(y, KERNELS[2])
    gate = jax.nn.sigmoid(x.mean((1, 2), keepdims=True))
    x = jnp.concatenate([x * gate, jnp.tanh(conv(x, KERNELS[3]))], axis=-1)
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    return jax.nn.softmax(x.mean((1, 2)) @ HEAD + BIAS)


@pytest.fixture(scope="module")
def graph():
    return qir.from_jax(cnn, IMAGES[0], batch="B")


RECIPE = "fold, calibrate, propagate-ranges, quantize, integer"


@pytest.fixture(scope="module")
def integers(graph):
    return qir.quantize(graph, IMAGES, RECIPE, accuracy_check=False)


def casts(program: qir.Graph) -> int:
    return sum(isinstance(node.op, Quantize | Dequantize) for node in program.nodes)


@pytest.mark.parametrize(
    ("rounding", "mode"),
    [("fixed31", "reciprocal"), ("f32_rne", "divide"), ("tflite_double", "half_away")],
)
def test_a_convolutional_network_is_lifted_to_the_same_integers(graph, rounding, mode):
    recipe = f"fold, calibrate, propagate-ranges, quantize(rounding={rounding}), integer"
    integers = qir.quantize(graph, IMAGES, recipe, accuracy_check=False)
    floats = Qdq(integers, mode).build()
    assert sum(map(is_float_op, floats.nodes)) > 8

    lifted = qir.optimize(floats, "lift-qdq, integer")
    assert not qir.explain(lifted).floats
    assert casts(lifted) == casts(integers)
    for images in IMAGES:
        (expected,), (found,) = (qir.evaluate(each, images) for each in (integers, lifted))
        assert np.array_equal(expected, found)


def test_the_lifted_network_is_within_a_step_of_the_one_of_floats_and_compiles(graph):
    recipe = "fold, calibrate, propagate-ranges, quantize(outputs=i8), integer"
    floats = Qdq(qir.quantize(graph, IMAGES, recipe, accuracy_check=False)).build()
    lifted = qir.optimize(floats, "lift-qdq, integer")
    (meant,), (found,) = (qir.evaluate(each, IMAGES[0]) for each in (floats, lifted))
    assert np.abs(meant.astype(int) - found).max() <= 1
    assert np.array_equal(qir.compile(lifted)(IMAGES[0])[0], found)


FILL = "canonicalize, calibrate, propagate-ranges, quantize, integer"


def decibels(exact: np.ndarray, coded: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(exact**2) / np.sum((exact - coded) ** 2)))


def stored(program: qir.Graph) -> set[tuple[str, bytes]]:
    """Returns the weights of a program as arrays that compare."""
    return {
        (str(value.type), value.array.tobytes())
        for value in program.values()
        if value.is_constant and value.type.quant is not None and value.type.rank > 1
    }


@pytest.mark.parametrize("seed", range(2))
def test_quantize_fills_what_has_no_code_yet_and_keeps_the_codes_that_there_are(integers, seed):
    half = Qdq(integers).build()
    rng, left = np.random.default_rng(seed), 0
    for node in list(half.nodes):
        is_pair = isinstance(node.op, Dequantize) and isinstance(node.inputs[0].op, Quantize)
        if is_pair and rng.random() < 0.5:
            node.output.replace_with(node.inputs[0].inputs[0])
            left += 1
    half = qir.optimize(half, "canonicalize")
    given = {node.op.to for node in half.nodes if isinstance(node.op, Quantize)}
    assert left >= 2

    lifted = qir.optimize(half, "lift-qdq, integer")
    assert all(line.reason for line in qir.explain(lifted).floats)
    assert qir.explain(lifted).floats

    filled = qir.quantize(half, IMAGES, FILL, accuracy_check=False)
    assert not qir.explain(filled).floats
    assert stored(filled) == stored(half)
    assert given <= {value.type.quant for value in filled.values()}
    (exact,), (coded,) = (qir.evaluate(each, IMAGES[0]) for each in (half, filled))
    assert decibels(exact, coded) > 40


def test_a_network_whose_input_is_quantized_is_finished_by_the_usual_pipeline():
    rows = [RNG.normal(0, 1, (32, 16)).astype(np.float32) for _ in range(2)]
    code, kernel = Affine.of(DType.I8, 0.05, 3), normal(16, 4)
    graph = qir.Graph("half")
    x, builder = graph.add_input("x", tensor(rows[0])), graph.at_end()
    real = builder.emit(Dequantize(), builder.emit(Quantize(code), x))
    graph.set_outputs([builder.emit(Dot(), real, builder.const(kernel, "kernel"))])

    integers = qir.quantize(graph, rows, accuracy_check=False)
    assert not qir.explain(integers).floats
    (dot,) = (node for node in integers.nodes if isinstance(node.op, Dot))
    assert dot.inputs[0].type.quant == code
    (exact,), (coded,) = (qir.evaluate(each, rows[0]) for each in (graph, integers))
    assert decibels(exact, coded) > 35


def test_weights_that_have_codes_already_are_those_of_the_integer_program(graph):
    weights = qir.quantize(graph, None, "w8", accuracy_check=False)
    integers = qir.quantize(weights, IMAGES, accuracy_check=False)
    assert not qir.explain(integers).floats
    assert stored(integers) == stored(weights)
    (exact,), (coded,) = (qir.evaluate(each, IMAGES[0]) for each in (graph, integers))
    assert decibels(exact, coded) > 40


def test_quantize_changes_nothing_in_a_program_of_integers(integers):
    assert str(qir.optimize(integers, "quantize")) == str(integers)


def test_what_enters_and_leaves_in_codes_has_those_of_the_program(integers):
    floats = Qdq(integers).build()
    coded = qir.optimize(floats, "quantize(inputs=i8), integer")
    (image,) = integers.inputs
    code = next(user.op.to for user in image.users)
    assert coded.inputs[0].type.quant == code
    (expected,), (found,) = (
        qir.evaluate(integers, IMAGES[0]),
        qir.evaluate(coded, code.encode(IMAGES[0])),
    )
    assert np.array_equal(expected, found)


def test_an_op_that_a_selector_keeps_stays_float_between_its_codes(integers):
    floats = Qdq(integers).build()
    kept = qir.quantize(
        floats,
        IMAGES,
        "canonicalize, calibrate, quantize(keep_float=[op:softmax]), integer",
        accuracy_check=False,
    )
    reasons = {line.op: line.reason for line in qir.explain(kept).floats}
    assert reasons == {"softmax": "a selector keeps it in floating point"}
