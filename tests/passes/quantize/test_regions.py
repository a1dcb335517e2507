"""Loops and branches on codes: one code for what goes through, integers inside, the same bits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.ir import Graph, Node
from qir.ir.passages import passing
from qir.ops.regions import RegionOp
from qir.types import Array, DType

ROWS, WIDTH = 3, 4
RNG = np.random.default_rng(0)
LEFT, RIGHT = (
    np.asarray(RNG.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5, np.float32) for _ in range(2)
)


def batches(seed: int, count: int = 4) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (ROWS, WIDTH)).astype(np.float32) for _ in range(count)]


def outputs(results: object) -> Array:
    """The only output of a program."""
    (found,) = jax.tree.leaves(results)
    return np.asarray(found)


def quantized(function: Callable[..., object], pipeline: str = "w8a8") -> Graph:
    graph = qir.from_jax(function, batches(0)[0])
    return qir.quantize(graph, batches(0), pipeline=pipeline, accuracy_check=False)


def the_loop(graph: Graph) -> Node:
    (node,) = (node for node in graph.nodes if isinstance(node.op, RegionOp))
    return node


def carried(graph: Graph) -> list[DType]:
    """The storage of what the one loop carries."""
    ports = passing(the_loop(graph))
    return [port.returned[0].type.code.storage for port in ports if port.passage.kind == "carried"]


def gated(x: jax.Array) -> Any:
    """A state that is scaled and added to, as a GRU's is."""

    def step(h: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        z = jax.nn.sigmoid(h @ LEFT + x)
        h = z * h + (1 - z) * jnp.tanh(x @ RIGHT)
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(x), None, length=8)[1]


def remade(x: jax.Array) -> Any:
    """A state that each trip makes anew."""
    return jax.lax.fori_loop(0, 8, lambda _, h: jnp.tanh(h @ LEFT + x), x)


def branched(x: jax.Array) -> Any:
    branches = (lambda x: jnp.tanh(x @ LEFT), lambda x: jax.nn.relu(x @ RIGHT) * 3)
    return jax.lax.cond(x.sum() > 0, *branches, x) @ LEFT


def until_small(x: jax.Array) -> Any:
    return jax.lax.while_loop(
        lambda c: jnp.abs(c).sum() > 2.0, lambda c: 0.7 * jnp.tanh(c @ LEFT), x
    )


def nested(x: jax.Array) -> Any:
    def outer(c: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        inner = jax.lax.fori_loop(0, 3, lambda _, d: 0.9 * d + 0.1 * jnp.tanh(d @ LEFT), c)
        return inner + 0.1 * x, c

    return jax.lax.scan(outer, x, None, length=4)[1]


def delayed(x: jax.Array) -> Any:
    def step(c: Any, _: None) -> Any:
        return (c[1], jnp.tanh(c[0] @ LEFT)), c[0]

    return jax.lax.scan(step, (x, jnp.zeros_like(x)), None, length=4)[1]


def masked(x: jax.Array) -> Any:
    def step(c: Any, _: None) -> Any:
        new = jnp.where(c[1] < 3, 0.8 * c[0] + 0.2 * jnp.tanh(x @ LEFT), c[0])
        return (new, c[1] + 1), new

    return jax.lax.scan(step, (jnp.zeros_like(x), 0), None, length=6)[1]


@pytest.mark.parametrize("function", [gated, remade, branched, nested, delayed, masked])
def test_all_that_is_inside_becomes_integer_and_gives_the_same_bits_everywhere(
    function: Callable[..., object],
) -> None:
    graph = quantized(function)
    floats = [(line.op, line.reason) for line in qir.explain(graph).floats]
    # A plain comparison of the index of a trip may stay.
    assert not [line for line in floats if line[0] not in ("less", "cast")]
    inputs = batches(1, 2)
    wanted = [outputs(qir.evaluate(graph, x)) for x in inputs]
    for kernels in (False, True):
        run = qir.compile(graph, kernels=kernels)
        for x, right in zip(inputs, wanted, strict=True):
            np.testing.assert_array_equal(outputs(run(x)), right)
    exact = qir.compile(qir.from_jax(function, inputs[0]))
    for x, found in zip(inputs, wanted, strict=True):
        real = outputs(exact(x))
        noise = np.square(real - found).mean()
        assert 10 * np.log10(np.square(real).mean() / noise) > 22


def test_what_trips_add_up_has_16_bits_and_what_they_make_anew_has_8() -> None:
    assert carried(quantized(gated)) == [DType.I16]
    assert carried(quantized(remade)) == [DType.I8]


def chosen(x: jax.Array) -> Any:
    """A state that a branch of each trip adds to or leaves as it is."""

    def step(c: Any, adds: Any) -> Any:
        h = jax.lax.cond(adds, lambda h: 0.9 * h + 0.1 * jnp.tanh(x @ LEFT), lambda h: h, c)
        return h, h

    return jax.lax.scan(step, x, np.arange(30) % 2 == 0)[1]


def within(x: jax.Array) -> Any:
    """A state that a loop in each trip adds to."""

    def step(c: Any, _: None) -> Any:
        h = jax.lax.fori_loop(0, 2, lambda _, h: 0.9 * h + 0.1 * jnp.tanh(x @ LEFT), c)
        return h, h

    return jax.lax.scan(step, x, None, length=30)[1]


@pytest.mark.parametrize("function", [chosen, within])
def test_what_is_added_up_has_16_bits_in_all_that_it_goes_through(
    function: Callable[..., object],
) -> None:
    graph = quantized(function)
    assert carried(graph) == [DType.I16]
    (inner,) = (node for node in the_loop(graph).regions[0].nodes if node.regions)
    assert inner.outputs[0].type.code.storage is DType.I16
    x = batches(1)[0]
    np.testing.assert_array_equal(outputs(qir.compile(graph)(x)), outputs(qir.evaluate(graph, x)))


def test_a_product_reads_8_bits_of_a_state_of_16() -> None:
    region = the_loop(quantized(gated)).regions[0]
    (product,) = (node for node in region.nodes if node.op.name == "dot")
    assert product.inputs[0].type.code.storage is DType.I8


@pytest.mark.parametrize(("wanted", "storage"), [("i8", DType.I8), ("i16", DType.I16)])
def test_the_storage_of_what_is_carried_can_be_told(wanted: str, storage: DType) -> None:
    pipeline = f"fold, calibrate, propagate-ranges, quantize(carries={wanted}), integer"
    assert carried(quantized(gated, pipeline)) == [storage]
    assert carried(quantized(remade, pipeline)) == [storage]


def test_a_program_of_16_bits_carries_16() -> None:
    assert carried(quantized(remade, "w8a16")) == [DType.I16]


def test_all_branches_return_one_code() -> None:
    node = the_loop(quantized(branched))
    codes = {region.outputs[0].type.quant for region in node.regions}
    assert codes == {node.outputs[0].type.quant}
    assert None not in codes


def test_a_loop_whose_end_codes_decide_says_so() -> None:
    graph = quantized(until_small)
    (told,) = (line for line in graph.diagnostics if "another number of trips" in line)
    assert "keep_float" in told


def test_a_branch_that_no_data_took_stays_float() -> None:
    def rarely(x: jax.Array) -> Any:
        taken, other = (lambda x: jnp.tanh(x @ LEFT)), (lambda x: jax.nn.relu(x @ RIGHT))
        return jax.lax.cond(x.sum() > -1e6, taken, other, x) @ LEFT

    # Pass propagate-ranges would give it ranges that follow from what goes in.
    graph = quantized(rarely, "fold, calibrate, quantize, integer")
    node = the_loop(graph)
    dots = [inner for region in node.regions for inner in region.nodes if inner.op.name == "dot"]
    assert sorted(inner.note or "" for inner in dots) == [
        "",
        "no calibration data went through it",
    ]
    x = batches(1)[0]
    np.testing.assert_allclose(outputs(qir.compile(graph)(x)), outputs(qir.evaluate(graph, x)))


def test_what_nothing_inside_computes_on_codes_of_stays_float() -> None:
    pipeline = "fold, calibrate, propagate-ranges, quantize(keep_float=[op:dot, op:tanh]), integer"

    def plain(x: jax.Array) -> Any:
        return jax.lax.fori_loop(0, 8, lambda _, h: jnp.tanh(h @ LEFT), x)

    node = the_loop(quantized(plain, pipeline))
    assert [value.type.dtype for value in node.outputs if value.type.is_float] == [DType.F32]
    assert node.note == "nothing in its regions computes on codes"


@pytest.mark.parametrize("selector", ["op:scan", "scan"])
def test_a_selector_of_a_loop_names_all_in_it(selector: str) -> None:
    pipeline = f'fold, calibrate, propagate-ranges, quantize(keep_float=["{selector}"]), integer'

    def plain(x: jax.Array) -> Any:
        return jax.lax.fori_loop(0, 8, lambda _, h: jnp.tanh(h @ LEFT), x @ RIGHT) @ RIGHT

    node = the_loop(quantized(plain, pipeline))
    notes = {inner.note for inner in node.regions[0].nodes if inner.op.name in ("dot", "tanh")}
    assert notes == {"a selector keeps it in floating point"}


@pytest.mark.parametrize("pipeline", ["w8", "w4", "w8-dynamic", "w16a16", "w4a8"])
def test_every_pipeline_codes_the_weights_inside(pipeline: str) -> None:
    region = the_loop(quantized(gated, pipeline)).regions[0]
    coded = [value.type.quant for value in region.values() if value.is_constant]
    assert any(code is not None and code.storage is not DType.I32 for code in coded)


def test_what_rounding_weights_costs_goes_into_biases_inside() -> None:
    def positive(x: jax.Array) -> Any:
        return jax.lax.fori_loop(0, 8, lambda _, h: jax.nn.sigmoid(h @ LEFT), x)

    region = the_loop(quantized(positive)).regions[0]
    (product,) = (node for node in region.nodes if node.op.name == "dot")
    assert len(product.inputs) == 3


def test_a_projection_enters_the_sum_of_a_trip_with_16_bits() -> None:
    def projected(x: jax.Array) -> Any:
        def step(h: Any, row: Any) -> Any:
            h = jnp.tanh(row[None] @ LEFT + h @ RIGHT)
            return h, h

        return jax.lax.scan(step, jnp.zeros((1, WIDTH)), x)[1]

    node = the_loop(quantized(projected))
    (stacked,) = (port for port in passing(node) if port.passage.kind == "stacked" and port.inputs)
    assert stacked.inputs[0].type.code.storage is DType.I16
    totals = [inner.output for inner in node.regions[0].nodes if inner.op.name == "add"]
    assert [total.type.code.storage for total in totals] == [DType.I32]


def converging(x: jax.Array, tolerance: float) -> Any:
    """The fixed point of a layer."""

    def step(state: Any) -> Any:
        new = jnp.tanh(0.4 * state[0] @ LEFT + x)
        return new, jnp.abs(new - state[0]).max()

    start = (jnp.zeros_like(x), jnp.float32(1))
    return jax.lax.while_loop(lambda state: state[1] > tolerance, step, start)[0]


def test_a_loop_that_codes_could_keep_from_ending_stays_in_floating_point() -> None:
    fine, coarse = (quantized(lambda x, t=t: converging(x, t)) for t in (0.01, 0.2))
    reasons = [line.reason for line in qir.explain(fine).floats if line.op == "dot"]
    assert len(reasons) == 1
    assert "%while.carry_2 comes to 0.01, and codes of it have steps of 0.00392" in reasons[0]
    assert "dot" not in [line.op for line in qir.explain(coarse).floats]
    wide = quantized(lambda x: converging(x, 0.01), "w8a16")
    assert "dot" not in [line.op for line in qir.explain(wide).floats]
    x = batches(9)[0]
    np.testing.assert_allclose(
        qir.evaluate(wide, x)[0], converging(jnp.asarray(x), 0.01), atol=0.02
    )


def test_what_a_loop_begins_with_is_spread_over_the_batch_in_its_code() -> None:
    def summed(x: jax.Array) -> Any:
        start = jnp.full((x.shape[0], WIDTH), 0.5)
        return jax.lax.fori_loop(0, 8, lambda _, h: jnp.tanh(h @ LEFT + x), start)

    rows = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("rows"), WIDTH), jnp.float32)
    graph = qir.quantize(qir.from_jax(summed, rows), batches(0), accuracy_check=False)
    (spread,) = (node for node in graph.nodes if node.op.name == "broadcast")
    code = spread.outputs[0].type.code
    assert spread.inputs[0].array == code.encode(np.float32(0.5))
    assert not qir.explain(graph).floats
    x = batches(9)[0]
    np.testing.assert_array_equal(qir.compile(graph)(x)[0], qir.evaluate(graph, x)[0])


def test_a_divisor_that_a_loop_adds_up_begins_at_zero() -> None:
    def average(x: jax.Array) -> Any:
        def step(state: Any, row: jax.Array) -> tuple[Any, jax.Array]:
            weight = jnp.exp(jnp.tanh(row @ RIGHT))
            above = 0.9 * state[0] + weight * (row @ LEFT)
            below = 0.9 * state[1] + weight
            return (above, below), above / below

        zeros = jnp.zeros(x.shape[1:])
        return jax.lax.scan(step, (zeros, zeros), x)[1]

    rng = np.random.default_rng(0)
    data = [rng.uniform(-1, 1, (12, ROWS, WIDTH)).astype(np.float32) for _ in range(9)]
    exact = qir.from_jax(average, data[0])
    graph = qir.quantize(exact, data[:8], accuracy_check=False)
    assert not qir.explain(graph).floats
    wanted, found = (np.asarray(qir.evaluate(each, data[8])[0]) for each in (exact, graph))
    assert 10 * np.log10(np.square(wanted).mean() / np.square(wanted - found).mean()) >= 30
    np.testing.assert_array_equal(qir.compile(graph)(data[8])[0], found)
