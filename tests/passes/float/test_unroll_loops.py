"""Trips written out compute what the loop does, under own names; each loop has a reason."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.numbers.interval import Interval
from qir.ops import Scan
from qir.types import Array

WEIGHTS = np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32)
LAYERS = """qir 2
graph @layers(%x: f32[4,2], %parts: f32[3,4,2]) {
  %net.kernel = const : f32[3,2,2]
  %y, %each = scan(%x, %net.kernel, %parts) {carries = 1, stacked = 2REVERSE} with (%h: f32[4,2], %k: f32[2,2], %p: f32[4,2]) {
    %d = dot(%h, %k) : f32[4,2] in [-9.0, 9.0] loc("model.py:3 (net)")
    %s = add(%d, %p) : f32[4,2]
    %n = reduce_sum(%s) {axes = [1]} : f32[4]
    return %s, %n
  } : f32[4,2], f32[3,4]
  return %y, %each
}"""  # noqa: E501


def layers(reverse: bool = False) -> qir.Graph:
    text = LAYERS.replace("REVERSE", ", reverse = true" if reverse else "")
    return qir.parse(text, {"net.kernel": WEIGHTS})


def inputs() -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(4, 2)).astype(np.float32), rng.normal(size=(3, 4, 2)).astype(np.float32)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_trips_compute_what_the_loop_does(reverse: bool) -> None:
    graph = layers(reverse)
    unrolled = qir.optimize(graph, "unroll-loops", check=True, data=[inputs()])
    assert not any(node.regions for node in unrolled.nodes)
    pairs = zip(qir.evaluate(unrolled, *inputs()), qir.evaluate(graph, *inputs()), strict=True)
    assert all(np.array_equal(found, wanted) for found, wanted in pairs)
    last = unrolled.value("d.2")
    assert last.origin == ("d.2",)
    assert last.loc == "model.py:3 (net)"
    assert last.range == Interval.of(-9, 9)
    assert unrolled.value("net.2.kernel").origin == ("net.2.kernel",)


def test_trips_have_no_name_that_another_value_was_imported_with() -> None:
    text = LAYERS.replace("REVERSE", "").replace("scan(%x,", "scan(%d.0,")
    text = text.replace("  %net.kernel", "  %d.0 = neg(%x) : f32[4,2]\n  %net.kernel", 1)
    graph = qir.parse(text.replace("%parts", "%net.0.kernel"), {"net.kernel": WEIGHTS})
    unrolled = qir.optimize(graph, "unroll-loops", check=True, data=[inputs()])
    origins = [name for value in unrolled.values() for name in value.origin]
    assert len(origins) == len(set(origins))
    assert unrolled.value("d.0_1").origin == ("d.0_1",)
    assert unrolled.value("net.0.kernel_1").origin == ("net.0.kernel_1",)


def test_a_loop_that_would_be_too_long_stays_and_says_so() -> None:
    stays = qir.optimize(layers(), "unroll-loops(limit=8)")
    assert isinstance(stays.outputs[0].op, Scan)
    assert stays.diagnostics == (
        "unroll-loops: the loop at %y stays one, though each trip has its own part of "
        "%net.kernel: 3 trips of 3 ops are more than the limit of 8",
    )
    # Asked again by another pipeline, it is told once.
    assert qir.optimize(stays, "unroll-loops(limit=8)").diagnostics == stays.diagnostics


def test_explain_tells_why_a_loop_is_one() -> None:
    def recurrent(x: Any) -> Any:
        def step(state: Any, row: Any) -> Any:
            state = jnp.tanh(state @ WEIGHTS[0] + row)
            return state, state

        return jax.lax.scan(step, jnp.zeros((1, 2)), x)[1]

    x = np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 1, 2)
    told = str(qir.explain(qir.quantize(qir.from_jax(recurrent, x), [x])))
    assert "stays one: its 5 trips read the same weights" in told


def test_the_limit_is_no_negative_number() -> None:
    with pytest.raises(QirError, match="limit: expected at least 0, got -1"):
        qir.optimize(layers(), "unroll-loops(limit=-1)")
