"""The kit that frontends are built of, by a small frontend that has nothing else."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import qir
from qir.analysis.verify import verify
from qir.backends.reference.interpreter import run
from qir.frontends.shared import Emitter, Known, Refusals, Translation, dotted, fold
from qir.ir import Graph
from qir.ops import Add, Mul, Neg, ReduceSum, Split, Tanh
from qir.ops.core import Const
from qir.pipeline.selectors import select
from qir.types import Dim, DType, TensorType
from tests.frontends.agreement import assert_equal, op_names, uniform
from tests.frontends.layers import from_layers, small
from tests.layout import ROOT

IMAGE: Any = {"image": (2, 4, 4, 3)}


def imported():
    return from_layers(*small(), **IMAGE)


def test_a_frontend_is_built_of_the_kit_without_jax():
    code = (
        "import sys; from tests.frontends.layers import from_layers, small;"
        "from qir.text import to_text;"
        "to_text(from_layers(*small(), image=(2, 4, 4, 3)));"
        "print([name for name in sys.modules if name.partition('.')[0] in ('jax', 'jaxlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_its_graphs_verify_compute_and_read_back_from_their_text():
    graph, (_, weights) = imported(), small()
    verify(graph)
    x = uniform(2, 4, 4, 3)
    (found,) = run(graph, x)
    kernel, bias, weight, scale = weights.values()
    padded = np.pad(x.astype(np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    hidden = np.maximum(np.einsum("nhwcij,oijc->nhwo", windows, kernel) + bias, 0)
    wanted = hidden.reshape(2, -1) @ (weight * scale).astype(np.float64).T
    assert_equal(found, wanted.astype(np.float32), terms=27 + 128)
    program = qir.to_program(graph)
    again = qir.parse(program.text, program.arrays)
    assert qir.to_program(again).text == program.text


def test_names_of_any_characters_become_names_of_the_text_and_stay_as_origins():
    graph = imported()
    assert graph.value("block.conv.0").origin == ("block/conv::0",)
    assert graph.value("block.conv.kernel").origin == ("block/conv::kernel",)
    assert graph.value("image").origin == ("image",)
    program = qir.to_program(graph)
    assert 'of "block/act::0"' in program.text
    assert qir.parse(program.text, program.arrays).value("head.0").origin == ("head::0",)


def test_selectors_and_statistics_take_the_names_of_the_source():
    graph = imported()
    chosen = {node.output.name for node in select(graph, ["block/*"])}
    assert chosen == {"block.conv.0", "block.act.0"}
    context = qir.Context()
    data = [(uniform(2, 4, 4, 3, seed=seed),) for seed in range(2)]
    int8 = qir.quantize(graph, data, context=context)
    assert {"image", "block/act::0", "head::0"} <= set(context.statistics)
    assert "dequantize" in op_names(int8)


def test_known_operands_are_folded_before_an_op_reads_them():
    graph = imported()
    assert op_names(graph) == ["conv", "relu", "reshape", "dot"]
    arrays = [node.output.array for node in graph.nodes if isinstance(node.op, Const)]
    weights = small()[1]
    scaled = (weights["head::weight"] * weights["head::scale"]).T
    np.testing.assert_array_equal(next(a for a in arrays if a.shape == (128, 5)), scaled)


def test_everything_unsupported_is_listed_with_its_place():
    layers, weights = small()
    extra = {"kind": "attention", "name": "block::1/attn", "inputs": ["block/act::0"], "shape": ()}
    wrong = {"kind": "relu", "name": "block::2", "inputs": ["block/act::0"], "shape": (1,)}
    after = {"kind": "relu", "name": "block::3", "inputs": ["block::1/attn"], "shape": (1,)}
    with pytest.raises(qir.UnsupportedError) as refused:
        from_layers(
            [*layers, extra, {**extra, "name": "tail/attn"}, wrong, after], weights, **IMAGE
        )
    assert str(refused.value).splitlines() == [
        "from_layers: expected layers that QIR has a rule for, got attention",
        "  attention at block::1/attn, tail/attn",
        "  relu: expected its rule to give f32[1], got f32[2,4,4,8]",
        "  at block::2",
    ]


def test_what_rules_refuse_is_one_error_of_the_first_ones_type():
    refusals = Refusals("read", "nodes")
    assert refusals.attempt("a", 2, lambda: [1, 2]) == [1, 2]

    def refuse():
        raise qir.UnsupportedError("pad: expected a constant")

    results = refusals.attempt("b", 2, refuse)
    assert len(results) == 2
    assert results[0] is results[1]
    refusals.attempt("c", 1, refuse)
    with pytest.raises(qir.UnsupportedError) as refused:
        refusals.check()
    assert refused.value.places == ["at b", "pad: expected a constant", "at c"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/model/conv/Relu_output_0", "model.conv.Relu_output_0"),
        ("block::conv::0", "block.conv.0"),
        ("a b:0", "a_b_0"),
        ("größe", "größe"),
        ("::", "x"),
    ],
)
def test_a_path_becomes_a_name(source, name):
    assert dotted(source, "x") == name


def test_two_values_of_one_name_are_told_apart_by_a_number():
    b = Emitter(Graph("twice"))
    x = b.input("x:0", TensorType((2,), DType.F32))
    first, second = (b.name(b.emit(Neg(), x), "neg") for _ in range(2))
    assert isinstance(first, qir.Value)
    assert isinstance(second, qir.Value)
    assert first.name == "neg"
    assert second.name.startswith("neg_")
    assert b.name(x, "other") is x
    assert x.name == "x_0"


def test_an_axis_of_a_named_size_stretches_through_elementwise_ops_only():
    wide = Known.of(np.array([[1], [2]], np.float32), (2, Dim.named("B")))
    found = fold(Add(), [wide, Known.of(np.float32(1))])
    assert found is not None
    assert found.shape == wide.shape
    np.testing.assert_array_equal(found.array, [[2], [3]])
    assert fold(ReduceSum((0,)), [wide]) is None


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16, DType.F32])
def test_what_is_folded_is_what_the_reference_computes(dtype):
    x = uniform(64).astype(dtype.numpy)
    graph = Graph("tanh", [("x", TensorType((64,), dtype))])
    graph.set_outputs([graph.at_end().emit(Tanh(), graph.inputs[0])])
    found = fold(Tanh(), [Known.of(x)])
    assert found is not None
    assert found.type == graph.outputs[0].type
    np.testing.assert_array_equal(found.full, run(graph, x)[0])


def test_ops_of_several_results_or_computed_operands_are_not_folded():
    graph = Graph("computed")
    x = graph.add_input("x", TensorType((2,), DType.F32))
    ones = Known.of(np.ones(2, np.float32))
    assert fold(Mul(), [x, ones]) is None
    assert fold(Split(0, (1, 1)), [ones]) is None


def _pool(b, x, size, *, stride=1, depth):
    return x


RULES: Any = {
    "relu": lambda b, x: b.emit(Tanh(), x),
    "pool": _pool,
    "sum": lambda b, x, *more: x,
    "boom": lambda b, x: 1 / 0,
    "none": lambda b, x: None,
    "number": lambda b, x: 5,
}


@pytest.mark.parametrize(
    ("kind", "operands", "attributes", "sentence"),
    [
        ("relu", ["x", "x"], {}, "relu: expected 1 operand, got 2"),
        ("relu", [], {}, "relu: expected 1 operand, got 0"),
        ("relu", ["x"], {"slope": 1}, "relu: no attribute 'slope'; its rule takes none"),
        ("pool", ["x"], {"size": 2, "strid": 1}, "pool: no attribute 'strid'; did you mean 'stri"),
        ("pool", ["x"], {"size": 2}, "pool: expected the attribute 'depth', which its rule needs"),
        ("pool", [], {"size": 2, "depth": 1}, "pool: expected 1 operand, got 0"),
        ("sum", [], {}, "sum: expected 1 or more operands, got 0"),
        ("boom", ["x"], {}, "boom: its rule failed: ZeroDivisionError: division by zero"),
        ("none", ["x"], {}, "none: expected its rule to return .*, got None"),
        ("number", ["x"], {}, "number: expected its rule to return .*, got an int"),
    ],
)
def test_a_rule_that_does_not_fit_its_node_or_fails_is_an_error_with_the_place(
    kind, operands, attributes, sentence
):
    reading = Translation("read", "nodes", RULES)
    reading.input("x", TensorType((2,), DType.F32))
    reading.node(kind, operands, ["y"], attributes)
    reading.node("swirl", ["y"], ["z"])
    with pytest.raises(qir.UnsupportedError, match=f"got swirl\n.*\n  {sentence}.*\n  at y"):
        reading.finish(["y"])


def test_attributes_may_be_given_to_any_parameter_of_a_rule():
    reading = Translation("read", "nodes", RULES)
    reading.input("x", TensorType((2,), DType.F32))
    reading.node("pool", ["x"], ["y"], {"size": 2, "depth": 1})
    assert reading.finish(["y"]).outputs[0].name == "x"


def test_a_known_operand_is_turned_by_an_order_of_its_axes_only():
    with pytest.raises(qir.QirError, match=r"permutation.*\[2, 3, 1, 0\]"):
        Known.of(np.zeros((0,), np.float32)).transpose((2, 3, 1, 0))
