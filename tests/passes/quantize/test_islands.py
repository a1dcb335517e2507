"""Groups of ops that could be integer ones but stand between ops of floating point."""

import jax.numpy as jnp
import numpy as np
import pytest

import qir

RNG = np.random.default_rng(39)
WEIGHTS = RNG.normal(0, 0.3, (8, 4)).astype(np.float32)
DATA = [(RNG.normal(0, 1, (4, 6, 6, 8)) * np.geomspace(0.01, 10, 8)).astype("f") for _ in range(4)]
KEPT = "fold, calibrate, propagate-ranges, quantize(keep_float={}), integer"
NOTE = "it stands between ops of floating point, where codes only cost accuracy"


def instance_norm(x):
    """Every op by itself: the norm that raising knows is another one."""
    mean = x.mean((1, 2), keepdims=True)
    variance = jnp.square(x - mean).mean((1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5)


def floats(integer):
    return {line.op: line.reason for line in qir.explain(integer).floats}


def quantized(function, data, pipeline):
    graph = qir.from_jax(function, data[0], batch="B")
    return qir.quantize(graph, data, pipeline, accuracy_check=False)


def test_an_add_between_kept_ops_stays_float():
    data = [np.geomspace(1e-4, 100, 64).reshape(8, 8).astype(np.float32)]
    integer = quantized(lambda x: jnp.sqrt(x + 1e-5) @ jnp.eye(8), data, KEPT.format('["op:sqrt"]'))
    assert floats(integer) == {"add": NOTE, "sqrt": "a selector keeps it in floating point"}


@pytest.mark.parametrize("add", ["", ', "op:add"'])
def test_a_norm_that_is_kept_but_for_its_epsilon_is_as_one_kept_whole(add):
    names = ["mean", "sub", "square", "div", "sqrt"]
    selectors = ", ".join(f'"op:{name}"' for name in names)
    graph = qir.from_jax(lambda x: instance_norm(x) @ WEIGHTS, DATA[0], batch="B")
    here = {node.op.name for node in graph.nodes}
    if not here.issuperset(names):
        pytest.skip("the norm was raised to one op")
    integer = qir.quantize(graph, DATA, KEPT.format(f"[{selectors}{add}]"))
    assert integer.accuracy is not None
    # Rounded once, to 8 bits, and multiplied by weights of 8 bits: 36 dB each at the least.
    assert integer.accuracy.outputs[0].sqnr > 33


def test_a_group_with_a_product_is_no_island():
    data = [RNG.normal(0, 1, (8, 8)).astype(np.float32)]
    integer = quantized(
        lambda x: jnp.sqrt(jnp.square(x) @ np.ones((8, 8), "f")) + x,
        data,
        KEPT.format('["op:sqrt"]'),
    )
    assert "dot" not in floats(integer)


def test_what_leads_from_an_input_to_an_output_is_no_island():
    data = [RNG.normal(0, 1, (8, 8)).astype(np.float32)]
    integer = quantized(lambda x: jnp.tanh(x) + x[:, ::-1], data, "w8a8")
    assert not floats(integer)


def test_stored_numbers_on_one_side_make_none():
    data = [RNG.uniform(0.1, 1, (8, 8)).astype(np.float32)]
    pipeline = (
        "fold, calibrate, propagate-ranges, quantize(inputs=i8, keep_float=[op:sqrt]), integer"
    )
    integer = quantized(lambda x: jnp.sqrt(x + 0.1), data, pipeline)
    assert "add" not in floats(integer)
