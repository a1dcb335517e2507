"""The named pipelines, each over an MLP, a CNN and a transformer block."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.errors import ParseError, PassError
from qir.ops import Const, Dequantize, Dot, Embedding
from qir.pipeline import Context
from qir.types import DType
from tests.models.accuracy import exact_part
from tests.models.small_networks import NETWORKS

PIPELINES = {
    "w8a8": (8, "i8"),
    "w8a16": (8, "i16"),
    "w4a8": (4, "i8"),
    "w4a16": (4, "i16"),
    "log4": (4, "i8"),
    "w8-dynamic": (8, "i8"),
    "w8": (8, None),
    "w4": (4, None),
    "nf4": (4, None),
    "fp8": (8, None),
}
"""Bits of the weights, and the storage of activations; None where they stay floats."""

WITHOUT_DATA = ("w8-dynamic", "w8", "w4", "nf4", "fp8")

FAST = {("w4a8", "cnn"), ("w4", "transformer"), *product(("w4a16", "w8-dynamic", "fp8"), ("mlp",))}

PAIRS = [
    pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow)
    for pair in product(PIPELINES, NETWORKS)
]


@cache
def network(name):
    found = NETWORKS[name]()
    batches = [found.inputs(seed) for seed in range(2)]
    return qir.from_jax(found.function, *batches[0]), batches


def quantized(graph, pipeline, batches=None):
    return qir.quantize(graph, batches, pipeline, accuracy_check=False)


def weights_of(graph):
    """The constants that products and tables read, decoded or as they are."""
    found = {}
    for node in graph.nodes:
        rule = node.op.quant
        place = 0 if isinstance(node.op, Embedding) else getattr(rule, "right", None)
        if place is None:
            continue
        value = node.inputs[place]
        value = value.node.inputs[0] if isinstance(value.op, Dequantize) else value
        if value.is_constant:
            found[value.name] = value
    return found


@pytest.mark.parametrize(("pipeline", "name"), PAIRS)
def test_a_pipeline_codes_a_network(pipeline, name, tmp_path):
    graph, batches = network(name)
    bits, storage = PIPELINES[pipeline]
    program = quantized(graph, pipeline, None if pipeline in WITHOUT_DATA else batches)

    weights = weights_of(program)
    assert weights
    assert {value.type.dtype.bits for value in weights.values()} == {bits}
    if storage is None:
        assert not [
            value for value in program.values() if value.type.quant and not value.is_constant
        ]
    elif name == "mlp":
        sums = [node for node in program.nodes if isinstance(node.op, Dot)]
        assert {node.inputs[0].type.dtype.value for node in sums} == {storage}

    inputs = batches[1]
    wanted = qir.evaluate(program, *inputs)
    # Integers are equal; floats are as near as the roundings of each op let them be.
    qir.compile(program, check=inputs)
    part = exact_part(program)
    if part.outputs:
        fed = [inputs[program.inputs.index(program.value(value.name))] for value in part.inputs]
        for found, exact in zip(qir.compile(part)(*fed), qir.evaluate(part, *fed), strict=True):
            np.testing.assert_array_equal(found, exact)

    path = tmp_path / "program.qir"
    qir.save(program, path)
    loaded = qir.load(path)
    assert loaded == program
    for again, before in zip(qir.evaluate(loaded, *inputs), wanted, strict=True):
        np.testing.assert_array_equal(again, before)
    with np.load(path.with_suffix(".npz")) as arrays:
        stored = {key: arrays[key].nbytes for key in arrays}
    for key, value in weights.items():
        assert stored[key] == -(-value.type.size * bits // 8)
    # What the text itself holds are constants of at most 8 numbers.
    inline = sum(
        value.array.nbytes
        for value in program.values()
        if isinstance(value.op, Const) and value.array.size <= 8
    )
    assert 0 <= qir.summary(program).parameter_bytes - sum(stored.values()) <= inline


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        ("weights=i4, scheme=nf4", "scheme=apot, or activations=float"),
        ("scheme=fp8", "scheme=affine, or activations=float"),
        ("scheme=log2", "weights=i4, or activations=float"),
        ("weights=i4, scheme=mxfp4, per=block:32", "scheme=affine, or activations=float"),
        ("weights=i4, scheme=mxfp4, activations=float", "per=block:32"),
        ("weights=i4, scheme=nvfp4, per=block:32, activations=float", "per=block:16"),
        ("scheme=nf4, activations=float", "weights=i4"),
        ("weights=i4, scheme=fp8, activations=float", "weights=i8"),
        ("scheme=nf5, weights=i4", "did you mean 'nf4'"),
        ("per=row", "per=block:N"),
        ("weights=i16, per=block:32", "per=channel or weights=i8"),
        ("per=block", "block:32"),
        ("per=block:1", "block:32"),
        ("activations=float, inputs=i8", "activations=i8"),
    ],
)
def test_options_without_a_meaning_name_the_nearest_with_one(options, nearest):
    with pytest.raises(ParseError, match=r"quantize: ") as raised:
        qir.Pipeline.parse(f"quantize({options})")
    assert nearest in str(raised.value)


@pytest.mark.parametrize("pipeline", ["w8", "w4", "nf4", "fp8"])
def test_reasons_and_reports_of_weights_alone(pipeline):
    graph, _ = network("transformer")
    program = quantized(graph, pipeline)
    lines = qir.explain(program).floats
    assert {line.reason for line in lines if line.op == "dot" and line.value != "softmax"} >= {
        "its weights have codes, and activations=float"
    }
    assert all(line.reason for line in lines)
    assert "dequantize" not in {line.op for line in lines}


@pytest.mark.parametrize("function", [jnp.tanh, jax.nn.sigmoid, jax.scipy.special.erf])
def test_16_bits_of_a_sigmoid_are_not_cut_off_where_8_bits_would_be(function):
    """An operand narrowed for 8 bits gives what lies beyond it 32 steps of 16 bits too little."""
    x = np.linspace(-12, 12, 4000, dtype=np.float32).reshape(-1, 1)
    graph = qir.from_jax(lambda x: function(x @ jnp.ones((1, 1))), x)
    (exact,) = qir.evaluate(graph, x)
    (found,) = qir.evaluate(quantized(graph, "w16a16", [x]), x)
    beyond = np.abs(x) > 8
    # Half a step of the result, an eighth that is cut off, and the operand's half a step.
    step = np.ptp(exact) / 65535
    assert np.abs(exact - found)[beyond].max() <= 1.5 * step


@pytest.mark.parametrize(("pipeline", "floats"), [("w4", 1), ("w8", 0)])
def test_a_table_that_has_scales_by_block_tells_why_its_rows_are_floats(pipeline, floats):
    text = """
graph @rows(%ids: i32[B]) {
  %table = const : f32[10,64]
  %y = embedding(%table, %ids) : f32[B,64]
  return %y
}"""
    table = np.random.default_rng(0).normal(size=(10, 64)).astype(np.float32)
    program = qir.quantize(qir.parse(text, {"table": table}), pipeline=pipeline)
    reasons = [line.reason for line in qir.explain(program).floats]
    assert reasons == ["its weights have codes, and activations=float"] * floats


def test_weights_that_have_no_blocks_of_a_kind_are_told_of():
    kernels = [np.ones((rows, 4), np.float32) for rows in (32, 4)]
    graph = qir.from_jax(lambda x: x @ kernels[0] @ kernels[1], np.ones((1, 32), np.float32))
    context = Context()
    recipe = "quantize(weights=i4, activations=float, per=block:32, scheme=mxfp4)"
    qir.optimize(graph, recipe, context=context)
    (said,) = context.diagnostics
    assert said.startswith(f"quantize: the weights of %{graph.outputs[0].name} stay floats: scheme")
    assert "which do not divide the 4" in said


def test_codes_of_weights_stay_through_canonicalize():
    graph, _ = network("transformer")
    program = quantized(graph, "w4")
    again = qir.optimize(program, "canonicalize(growth=1000000000)")
    assert weights_of(again).keys() == weights_of(program).keys()
    assert {value.type.dtype for value in weights_of(again).values()} == {DType.I4}


def test_a_bias_takes_in_what_rounding_the_weights_costs_on_average():
    """The mean of the error is (W - Wq) E[x], which the bias takes off for the data observed."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.1, (64, 16)).astype(np.float32)
    x = rng.uniform(0, 4, (256, 64)).astype(np.float32)
    graph = qir.from_jax(lambda x: x @ kernel, x)
    plain, corrected = (quantized(graph, "w4", data) for data in (None, [x]))
    wanted = x.astype(np.float64) @ kernel

    def mean_error(program):
        return np.abs((qir.evaluate(program, x)[0] - wanted).mean(0))

    # Sums of 64 products in float32 are off by 64 units in the last place of their terms at most.
    rounding = 64 * 2.0**-24 * (np.abs(x).max(0) @ np.abs(kernel)).max() * 2
    assert mean_error(corrected).max() <= rounding < mean_error(plain).max()


def test_data_is_left_out_of_where_there_is_none():
    graph, batches = network("mlp")
    context = Context()
    qir.quantize(graph, pipeline="w4", context=context)
    assert context.sample is None
    program = qir.quantize(graph, batches, "w8", context=context)
    assert program.accuracy is not None


@pytest.mark.parametrize("storage", ["i8", "i4", "i2"])
def test_products_decode_weights_a_tile_at_a_time(storage):
    rows, columns = 512, 2048
    rng = np.random.default_rng(1)
    kernel = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    x = rng.normal(0, 1, (2, rows)).astype(np.float32)
    graph = qir.from_jax(lambda x: x @ kernel, x)
    pipeline = f"quantize(weights={storage}, activations=float, per=block:32)"
    compiled = qir.compile(quantized(graph, pipeline))
    held = sum(array.nbytes for array in compiled.parameters.values())
    assert held <= kernel.size * DType(storage).bits // 8 + kernel.size // 32 + 4 * columns
    program = jax.jit(compiled.function).lower(compiled.parameters, x).compile()
    analysis = program.memory_analysis()
    assert analysis is not None
    # Four tiles of a quarter each; the copy of one, and what it is made of.
    assert analysis.temp_size_in_bytes < kernel.nbytes // 2
    found = compiled(x)[0]
    np.testing.assert_array_equal(found, jax.jit(lambda x: compiled(x)[0])(jnp.asarray(x)))


def test_a_context_that_is_used_again_leaves_out_no_pass_of_another_program():
    nothing = qir.parse("graph @f(%x: i32[2]) {\n  return %x\n}")
    context = Context()
    qir.optimize(nothing, "calibrate, quantize", data=[np.zeros(2, np.int32)], context=context)
    assert context.unattained
    tanh = qir.parse("graph @f(%x: f32[2]) {\n  %y = tanh(%x) : f32[2]\n  return %y\n}")
    with pytest.raises(PassError, match="quantize needs"):
        qir.optimize(tanh, "quantize", context=context)
    qir.optimize(nothing, "calibrate, quantize", data=[np.zeros(2, np.int32)], context=context)
