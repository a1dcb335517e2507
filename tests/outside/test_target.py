"""A target of one's own: symmetric activations, no tables; quantize obeys, explain tells."""

import jax
import numpy as np
import pytest

import qir
from qir import DType
from qir.targets import TARGETS, Target

CHIP = Target(
    name="chip",
    runtime="the simulator of a chip",
    activations=(DType.I8,),
    weights=(DType.I8,),
    sums=(DType.I32,),
    symmetric_activations=True,
    symmetric_weights=True,
    zero_point_inside=True,
    wide_sums=False,
    lookup=False,
    integer_ops=frozenset({"dot", "relu", "add"}),
)
W = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((32, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def chip():
    TARGETS.add("chip", CHIP)
    yield
    TARGETS.remove("chip")


@pytest.fixture
def graph():
    return qir.from_jax(lambda x: jax.nn.gelu(jax.nn.relu(x @ W) @ W) @ W, X)


def test_quantize_obeys(graph):
    integer = qir.quantize(graph, [X], target="chip")
    codes = [value.type.affine for value in integer.values() if value.type.quant is not None]
    assert all(code.zero_point == 0 for code in codes)
    (left,) = qir.explain(integer, target="chip").floats
    assert (left.op, left.reason) == ("gelu", "target chip has no lookup and no gelu on codes")
    assert qir.explain(integer, target="chip").obstacles == ()
    assert np.allclose(qir.compile(integer)(X)[0], qir.evaluate(integer, X)[0], rtol=1e-4)


def test_explain_names_what_stands_in_the_way_of_a_program_for_another_target(graph, tmp_path):
    integer = qir.quantize(graph, [X], target="xla")
    found = qir.explain(integer, target="chip").obstacles
    assert {each.rule for each in found} == {"symmetric_activations", "activations", "lookup"}
    assert {each.op for each in found if each.rule == "lookup"} == {"lookup"}
    with pytest.raises(qir.QirError, match="a program that target chip accepts, got"):
        qir.save(integer, tmp_path / "model.qir", target="chip")
    assert not [*tmp_path.iterdir()]
