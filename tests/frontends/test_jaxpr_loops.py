"""Loops and branches of jax as scan, while and cond: what they compute, take in and are called."""

import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qir
from qir.api import from_jax
from qir.errors import QirError, UnsupportedError
from qir.ir import Graph, Node
from qir.ops import Cond, Const, Scan, While
from tests.frontends.agreement import agrees, op_names, uniform

HERE = str(Path(__file__).relative_to(Path.cwd()))
X = uniform(4, 3)
KERNEL = uniform(3, 3, seed=1)


def only(graph: Graph, kind: type[Any]) -> Node:
    (node,) = [node for node in graph.walk() if isinstance(node.op, kind)]
    return node


def running_sum(x: Any, **options: Any) -> Any:
    return lax.scan(lambda total, row: (total + row, total), jnp.zeros(3), x, **options)


@pytest.mark.parametrize(
    "options", [{}, {"reverse": True}, {"unroll": 3}, {"unroll": True}, {"length": 4}], ids=str
)
def test_scan(options: dict[str, Any]) -> None:
    graph = agrees(lambda x: running_sum(x, **options), X)
    assert only(graph, Scan).op == Scan(1, 1, reverse=options.get("reverse", False))


def test_scan_without_stacked_operands_has_a_length() -> None:
    graph = agrees(lambda x: lax.scan(lambda c, _: (c * 0.5, c), x, None, length=5), X)
    assert only(graph, Scan).op == Scan(1, 0, trips=5)


def test_scan_whose_transpose_is_split() -> None:
    agrees(lambda x: lax.scan(lambda c, r: (c + r, c), X[0], x, _split_transpose=True), X)


def test_scan_over_a_named_axis() -> None:
    graph = agrees(running_sum, X, batch="B")
    assert only(graph, Scan).op == Scan(1, 1)
    # Where nothing that is read is stacked, something is, so that there are as many trips.
    counted = agrees(lambda x: lax.scan(lambda c, _: (c * 0.5, c), jnp.ones(2), x), X, batch="B")
    assert str(counted.outputs[1].type) == "f32[B,2]"


@pytest.mark.parametrize(
    "f",
    [
        lambda x: lax.fori_loop(0, 4, lambda i, c: c * 0.5 + x[i], x[0]),
        lambda x: lax.map(jnp.sin, x),
        lambda x: lax.map(lambda row: row @ KERNEL, x, batch_size=3),
        lambda x: lax.associative_scan(jnp.add, x),
        lambda x: lax.associative_scan(jnp.maximum, x, reverse=True, axis=1),
        lambda x: jax.checkpoint(lambda y: lax.scan(lambda c, r: (jnp.tanh(c + r), c), y[0], y))(x),
        lambda x: lax.scan(jax.checkpoint(lambda c, r: (jnp.tanh(c + r), c)), x[0], x),
        lambda x: jax.vmap(lambda row: lax.fori_loop(0, 3, lambda i, c: c + row[i], 0.0))(x),
    ],
    ids=["fori", "map", "batches", "sums", "maxima", "outer remat", "remat", "vmap"],
)
def test_what_jax_makes_of_scan(f: Any) -> None:
    agrees(f, X)


def test_while_reads_what_its_condition_and_its_body_read() -> None:
    def f(x: Any, limit: Any) -> Any:
        return lax.while_loop(
            lambda state: (jnp.sum(state[0]) < limit) & (state[1] < 50),
            lambda state: (state[0] + jnp.abs(x[0]) * limit, state[1] + 1),
            (x[1], 0),
        )

    node = only(agrees(f, X, np.float32(20)), While)
    assert node.op == While(2)
    # The limit goes in once, though both programs read it.
    assert len(node.inputs) == 4


def test_bounds_that_are_computed() -> None:
    f = lambda x, n: lax.fori_loop(n - 1, n + 2, lambda i, c: c * 0.5 + x[i], x[0])  # noqa: E731
    node = only(agrees(f, X, np.int32(2)), While)
    assert "gather" in [inner.op.name for inner in node.regions[1].nodes]


def test_rows_of_a_loop_under_vmap_end_one_by_one() -> None:
    def row(x: Any, count: Any) -> Any:
        return lax.fori_loop(0, count, lambda i, c: c * x + i, x)

    agrees(jax.vmap(row), X, np.array([3, 0, 5, 1], np.int32), batch="B")


@pytest.mark.parametrize("index", [-1, 0, 1, 2, 7])
def test_switch(index: int) -> None:
    branches = [lambda y: y, lambda y: -y, lambda y: y @ KERNEL]
    graph = agrees(lambda x, i: lax.switch(i, branches, x), X, np.int32(index))
    assert len(only(graph, Cond).regions) == 3
    # Known, it is the branch that runs.
    agrees(lambda x: lax.switch(index, branches, x), X)


def test_cond() -> None:
    def f(x: Any) -> Any:
        return lax.cond(x[0, 0] > 0, lambda: x @ KERNEL, lambda: jax.nn.silu(x))

    graph = agrees(f, X)
    agrees(f, -X)
    silu, dot = only(graph, Cond).regions
    assert op_names(silu) == ["silu"]
    assert op_names(dot) == ["dot"]
    assert op_names(from_jax(lambda x: lax.cond(True, jnp.sin, jnp.cos, x), X)) == ["sin"]
    chosen = from_jax(jax.vmap(lambda row: lax.cond(row[0] > 0, jnp.sin, jnp.cos, row)), X)
    assert "select" in op_names(chosen)


def test_weights_are_constants_of_the_body_that_reads_them() -> None:
    def f(x: Any) -> Any:
        scale = x.sum(0)
        return lax.scan(lambda c, row: (jnp.tanh(c @ KERNEL + row * scale), None), X[0], x)[0]

    graph = agrees(f, X)
    node = only(graph, Scan)
    (weight,) = [inner.output for inner in node.regions[0].nodes if isinstance(inner.op, Const)]
    assert weight.name == "KERNEL"
    # What is computed outside and read inside is invariant; what is carried first is a constant.
    assert [value.name for value in node.inputs] == ["reduce_sum", "scan.start", "x"]


def test_what_is_known_is_computed_now() -> None:
    def f(x: Any) -> Any:
        factor = lax.fori_loop(0, 5, lambda i, c: c * 2 + i, jnp.float32(1))
        keys, _ = lax.scan(lambda key, _: (jax.random.split(key)[0], None), jax.random.key(0), X)
        return x * factor + jax.random.uniform(keys)

    assert op_names(agrees(f, X)) == ["mul", "add"]


def test_what_is_carried_for_nothing_is_dropped() -> None:
    def f(x: Any) -> Any:
        def step(state: Any, row: Any) -> Any:
            key, total, fixed, _ = state
            key, _ = jax.random.split(key)
            return (key, total + row * fixed, fixed, total.sum()), total

        start = (jax.random.key(0), jnp.zeros(3), jnp.float32(2), jnp.float32(0))
        return lax.scan(step, start, x)[1]

    node = only(agrees(f, X), Scan)
    assert node.op == Scan(1, 1)
    assert len(node.outputs) == 2


def test_a_key_that_a_loop_draws_from_is_refused() -> None:
    def f(x: Any) -> Any:
        def step(key: Any, row: Any) -> Any:
            key, own = jax.random.split(key)
            return key, row * jax.random.bernoulli(own, 0.5, (3,))

        return lax.scan(step, jax.random.key(0), x)[1]

    with pytest.raises(QirError, match=r"expected an array of numbers, got key"):
        from_jax(f, X)


def test_names_places_and_functions_inside() -> None:
    def recurrent(x: Any) -> Any:
        def step(state: Any, row: Any) -> Any:
            with jax.named_scope("cell"):
                state = jax.nn.silu(state @ KERNEL + row)
            return state, state.sum()

        with jax.named_scope("net"):
            return lax.scan(step, jnp.zeros((2, 3)), x)

    graph = agrees(recurrent, uniform(4, 2, 3))
    start = inspect.getsourcelines(recurrent)[1]
    node = only(graph, Scan)
    (region,) = node.regions
    assert str(graph) == (
        "graph @recurrent(%x: f32[4,2,3]) {\n"
        "  %scan.start = const 0.0 : f32[2,3]\n"
        "  %scan, %scan_1 = scan(%scan.start, %x) {carries = 1, stacked = 1} "
        "with (%scan.carry: f32[2,3], %scan.part: f32[2,3]) {\n"
        "    %KERNEL = const : f32[3,3]\n"
        "    %scan.cell.dot = dot(%scan.carry, %KERNEL) : f32[2,3]\n"
        "    %scan.cell.add = add(%scan.cell.dot, %scan.part) : f32[2,3]\n"
        "    %scan.cell.silu = silu(%scan.cell.add) : f32[2,3]\n"
        "    %scan.reduce_sum = reduce_sum(%scan.cell.silu) {axes = [0, 1]} : f32[]\n"
        "    return %scan.cell.silu, %scan.reduce_sum\n"
        "  } : f32[2,3], f32[4]\n"
        "  return %scan, %scan_1\n"
        "}"
    )
    assert node.loc == f"{HERE}:{start + 7} (net)"
    assert region.value("scan.cell.dot").loc == f"{HERE}:{start + 3} (net/cell)"
    assert region.value("scan.cell.dot").origin == ("scan.cell.dot",)
    names = [value.name for value in graph.values_inside()]
    assert len(names) == len(set(names))


def test_all_that_bodies_hold_without_a_rule_is_listed() -> None:
    def f(x: Any) -> Any:
        def step(state: Any, row: Any) -> Any:
            return state + lax.cumsum(row), lax.cond(row[0] > 0, jnp.sort, lax.cummax, row)

        with jax.named_scope("loop"):
            last, rows = lax.scan(step, x[0], x)
        return lax.while_loop(lambda y: y.sum() < 3, lambda y: y + lax.cummin(y), last + rows[0])

    with pytest.raises(UnsupportedError) as error:
        from_jax(f, X)
    start = inspect.getsourcelines(f)[1]
    assert str(error.value) == (
        "from_jax: expected primitives that QIR has a rule for, got cummax, cummin, cumsum, sort\n"
        f"  cumsum at {HERE}:{start + 2} (loop)\n"
        f"  cummax at {HERE}:{start + 2} (loop)\n"
        f"  sort at {HERE}:{start + 2} (loop)\n"
        f"  cummin at {HERE}:{start + 6}\n"
        '  register a rule by @qir.frontends.jaxpr.primitive("cummax")'
    )


def test_places_that_are_computed() -> None:
    agrees(lambda x, i: lax.dynamic_slice(x, (1, i), (2, 1)), X, np.int32(9))
    agrees(lambda x, i: lax.dynamic_index_in_dim(x, i, 0, keepdims=False), X, np.int32(-1))
    agrees(lambda x, i: lax.dynamic_slice(x, (i, i), (4, 1)), X, np.int32(1))
    with pytest.raises(UnsupportedError, match=r"got slices of f32\[2,3\] along axes \[0\]"):
        from_jax(lambda x, i: lax.dynamic_slice(x, (i, 0), (2, 3)), X, np.int32(0))


@pytest.mark.parametrize("place", [-9, -1, 0, 2, 9])
def test_a_computed_place_that_is_written_over(place: int) -> None:
    def slices(x: Any, i: Any) -> Any:
        row = lax.dynamic_update_slice(x, -x[:1, :2], (i, 1))
        return row, lax.dynamic_update_slice(x, -x[:1, :1], (i, i))

    def places(x: Any, i: Any) -> Any:
        near = x.at[i].set(0.5, mode="clip")
        return near, x.at[:, i].set(x[:, 0]), x.at[i, 1].set(7), x.at[place].set(3), x.at[1].set(3)

    def combined(x: Any, i: Any) -> Any:
        at = x.at[i]
        return at.add(x[0]), at.multiply(2), at.min(0), at.max(x[1]), x.at[place].add(1)

    agrees(slices, X, np.int32(place))
    agrees(places, X, np.int32(place))
    agrees(combined, X, np.int32(place))


def test_more_than_a_place_that_is_written_over_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="let a scan stack what each trip gives"):
        from_jax(lambda x, i: lax.dynamic_update_slice(x, x[:2], (i, 0)), X, np.int32(0))
    with pytest.raises(UnsupportedError, match="write place by place"):
        from_jax(lambda x, i: x.at[i].set(0), X, np.arange(2, dtype=np.int32))


@pytest.mark.parametrize("start", [(0, 0), (1, 1), (9, 0), (-3, 2)], ids=str)
def test_windows_that_are_written_over(start: tuple[int, int]) -> None:
    agrees(lambda x: lax.dynamic_update_slice(x, -x[:2, :2], start), X)
    agrees(lambda x: lax.dynamic_update_slice(x, -x[:, 1:2], start), X)


def test_padding_between_numbers() -> None:
    config = [(1, 0, 2), (0, -1, 1)]
    agrees(lambda x: lax.pad(x, 0.5, config), X)


def test_layers_whose_weights_are_stacked_are_unrolled() -> None:
    kernels = uniform(3, 3, 3)

    def layers(x: Any) -> Any:
        with jax.named_scope("layers"):
            return lax.scan(lambda y, kernel: (jax.nn.relu(y @ kernel), None), x, kernels)[0]

    graph = agrees(layers, X, name="net")
    assert op_names(graph) == ["dot", "relu"] * 3
    assert [value.name for value in graph.values() if value.is_constant] == [
        "kernels.0",
        "kernels.1",
        "kernels.2",
    ]
    start = inspect.getsourcelines(layers)[1]
    place = f"the loop at {HERE}:{start + 2} (layers)"
    (told,) = graph.diagnostics
    assert told == (
        f"unroll-loops: {place} is unrolled: each of its 3 trips has its own part of %kernels"
    )
    stays = from_jax(running_sum, X)
    assert stays.diagnostics[0].endswith("stays one: its 4 trips read the same weights")
    # It is told once, though the pipelines ask again.
    assert qir.optimize(stays, "fold").diagnostics == stays.diagnostics
