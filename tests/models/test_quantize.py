"""Where codes are hard to choose: channels of zeros, constant activations, large biases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.numbers.interval import Interval
from qir.ops import Add, Dot, Relu
from qir.passes.shared.codes import ZERO_SCALE, activation_code
from qir.types import SMALLEST_SCALE, DType

INTEGER = "lookup-tables, fuse-requantize, check-overflow"


def layer(kernel, bias=None, x=(-1.0, 1.0)):
    """A dot of 64 samples in a range, whose ranges are the real ones; and the samples."""
    low, high = x
    samples = np.linspace(low, high, 64 * len(kernel)).reshape(64, -1).astype(np.float32)
    np.random.default_rng(0).shuffle(samples.reshape(-1))
    graph = qir.Graph("layer", [("x", qir.TensorType(samples.shape, DType.F32))])
    build = graph.at_end()
    operands = [np.asarray(array, np.float32) for array in (kernel, bias) if array is not None]
    named = zip(operands, ("kernel", "bias"), strict=False)
    graph.set_outputs(
        [build.emit(Dot(), graph.inputs[0], *(build.const(array, name) for array, name in named))]
    )
    return ranged(graph, samples), samples


def ranged(graph, *samples):
    """Gives every value the range that it has on samples."""
    for value in graph.values():
        if not value.is_constant:
            found = qir.evaluate(graph.extract(graph.inputs, [value]), *samples)[0]
            value.range = Interval.of(found.min(), found.max())
    return graph


def quantized(graph, options=""):
    """The integer program, with every accumulator proved to fit."""
    integer = qir.optimize(graph, f"quantize({options}), {INTEGER}")
    assert not qir.explain(integer).floats
    return integer


def error(graph, integer, *samples):
    """The greatest error of each output channel, in steps of the float program's 8-bit code."""
    (expected,), (found,) = qir.evaluate(graph, *samples), qir.evaluate(integer, *samples)
    code = integer.outputs[0].type.quant
    found = found if code is None else code.decode(found)
    step = (max(expected.max(), 0) - min(expected.min(), 0)) / 255
    return np.abs(found - expected).max(axis=0) / (step or 1.0)


def scales(graph, name):
    code = graph.value(name).type.quant
    assert code is not None
    return code.scale.array.reshape(-1)


ROUNDED = 0.5 + 2**-12
"""One rounding in steps, and what float32 adds to up to 255 steps."""

OUTPUTS = pytest.mark.parametrize("options", ["", "outputs=i8", "per=tensor, outputs=i8"])


@OUTPUTS
def test_a_channel_of_zeros_gives_its_bias(options):
    graph, x = layer([[0.5, 0.0], [0.25, 0.0]], [0.125, 0.3])
    integer = quantized(graph, options)
    assert np.all(error(graph, integer, x) <= [2.0, ROUNDED])


@OUTPUTS
def test_a_layer_of_zeros_gives_its_bias(options):
    graph, x = layer(np.zeros((3, 2)), [0.1, -0.3])
    assert np.all(error(graph, quantized(graph, options), x) <= ROUNDED)
    graph, x = layer(np.zeros((3, 2)))
    assert np.all(error(graph, quantized(graph, options), x) == 0)


def test_tiny_channels_do_not_touch_the_others():
    graph, x = layer([[0.5, 1e-30, 1e-42], [0.25, -1e-30, 0.0]])
    integer = quantized(graph)
    assert scales(integer, "kernel")[0] == np.float32(0.5 / 127)
    assert np.all(error(graph, integer, x) <= 2)


def test_a_channel_of_zeros_does_not_coarsen_the_scale_of_the_tensor():
    kernel = np.ones((4096, 2), np.float32)
    kernel[:, 1] = 0
    graph, _ = layer(kernel, x=(0.5, 1.0))
    integer = quantized(graph, "per=tensor")
    assert scales(integer, "kernel") == np.float32(1 / 127)


@OUTPUTS
@pytest.mark.parametrize("bias", [1e4, 1e7, -1e10, 1e20])
def test_the_scale_of_a_channel_with_a_large_bias_is_raised(bias, options):
    graph, x = layer([[0.5, 0.5], [0.25, 0.25]], [bias, 0.1], x=(-0.01, 0.01))
    integer = quantized(graph, options)
    stored = integer.value("bias").array.astype(np.int64)
    assert np.all(np.abs(stored) < 2**31 - 2 * 127 * 255)
    assert error(graph, integer, x)[0] <= 1


@pytest.mark.parametrize("constant", [3.0, -2.0, 0.0, 1e-40, -3e38])
@pytest.mark.parametrize("options", [{}, {"symmetric": True}])
@pytest.mark.parametrize("storage", [DType.I8, DType.U8])
def test_a_constant_activation_is_stored_as_it_is(constant, options, storage):
    code = activation_code(Interval.of(constant, constant), storage, **options)
    decoded = float(code.decode(code.encode(np.float32(constant))))
    # Of 255 steps each is off by 2^-24; a scale is at least 2^-125.
    assert decoded == pytest.approx(constant, rel=2**-23, abs=SMALLEST_SCALE / 2)
    assert code.decode(code.encode(0.0)) == 0


@pytest.mark.parametrize(("low", "high"), [(2.0, 5.0), (-5.0, -2.0), (0.0, 0.0), (-1.0, 0.0)])
def test_a_range_that_misses_zero_is_widened_to_it(low, high):
    code = activation_code(Interval.of(low, high), DType.I8)
    least, greatest = code.decode(np.array(code.range))
    assert least <= low + 1e-6
    assert greatest >= high - 1e-6
    assert code.decode(np.int8(code.zero_points)) == 0
    assert code.scale.array == (np.float32((max(high, 0) - min(low, 0)) / 255) or ZERO_SCALE)


REALS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(REALS, REALS, st.sampled_from([DType.I8, DType.U8]), st.booleans())
def test_every_range_has_a_code_that_covers_it(a, b, storage, symmetric):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    code = activation_code(Interval.of(min(a, b), max(a, b)), storage, symmetric=symmetric)
    step = float(code.scale.array)
    for end in (low, high):
        steps = int(code.encode(np.float32(end))) - int(code.zero_points)
        assert abs(steps * step - end) <= step * ROUNDED


def test_zeros_through_a_whole_program():
    graph, x = layer([[0.5, 0.5]], [0.02, 0.01], x=(0.0, 0.0))
    value = graph.at_end().emit(Relu(), graph.outputs[0])
    graph.set_outputs([graph.at_end().emit(Add(), value, graph.outputs[0])])
    integer = quantized(ranged(graph, x))
    assert np.all(error(graph, integer, x) <= ROUNDED)


@pytest.mark.parametrize("size", [1e-36, 1e-20, 1e20, 1e36])
def test_scales_of_any_size(size):
    graph, x = layer([[0.5, 2.0], [0.25, -1.0]], x=(-size, size))
    integer = quantized(graph, "outputs=i8")
    # Half a step of x times 1.5 and 3 of weights, half a step of these times x, and the rounding.
    assert np.all(error(graph, integer, x) <= 2)


NOTHING = {
    "the input itself": ("return %x", "no op computes in floating point"),
    "a constant": (
        "%c = const [1.0, 2.0] : f32[2]\n  return %c",
        "no op computes in floating point",
    ),
    "a selector": (
        "%a = add(%x, %x) : f32[2]\n  %b = mul(%a, %a) : f32[2]\n  return %b",
        "add of %a: a selector keeps it in floating point, and 1 more; see qir.explain",
    ),
}


@pytest.mark.parametrize("what", NOTHING)
def test_a_program_of_which_nothing_can_be_quantized_stays_as_it_is_and_says_why(what):
    lines, reason = NOTHING[what]
    graph = qir.parse(f"graph @g(%x: f32[2]) {{\n  {lines}\n}}")
    kept = '["*"]' if what == "a selector" else "[]"
    context = qir.Context()
    data = [np.array([0.5, -1], np.float32)]
    pipeline = f"fold, calibrate, quantize(keep_float={kept}), integer"
    result = qir.quantize(graph, data, pipeline, context=context)
    for found, wanted in zip(qir.evaluate(result, *data), qir.evaluate(graph, *data), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert context.diagnostics == [f"quantize: nothing was quantized; {reason}"]
    assert all(value.type.quant is None for value in result.values())
    assert len(qir.explain(result).floats) == (2 if what == "a selector" else 0)


def test_a_program_without_ops_explains_that_there_is_nothing_to_quantize():
    graph = qir.parse("graph @g(%x: f32[2]) {\n  return %x\n}")
    quantized = qir.quantize(graph, [np.zeros(2, np.float32)])
    assert str(qir.explain(quantized)) == "no ops: there is nothing to quantize"
