"""Loops and branches in XLA: ends, doors, transformations, names, and rounding at the door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.backends.xla.executor import XlaExecutor
from qir.errors import QirError
from qir.ir import Graph

COUNT = """with (%one: f32[2], %v: f32[2]) {
      %m = reduce_sum(%v) {axes = [0]} : f32[]
      %ten = const 10 : f32[]
      %l = less(%m, %ten) : bool[]
      return %l
    } with (%one: f32[2], %v: f32[2]) {
      %w = add(%v, %one) : f32[2]
      return %w
    } : f32[2]"""
STOPPED = f"""qir 2
graph @g(%x: f32[3,2], %n: i32[]) {{
  %one = const 1 : f32[2]
  %ys = scan(%n, %one, %x) {{stacked = 1}} with (%n: i32[], %one: f32[2], %x: f32[2]) {{
    %c = cond(%n, %one, %x) with (%one: f32[2], %a: f32[2]) {{
      return %a
    }} with (%one: f32[2], %v: f32[2]) {{
      %z = while(%one, %v) {{carries = 1, max_trips = 5}} {COUNT}
      return %z
    }} : f32[2]
    return %c
  }} : f32[3,2]
  %part = slice(%x) {{axes = [0], start = [0], limit = [1], stride = [1]}} : f32[1,2]
  %first = reshape(%part) : f32[2]
  %last = while(%one, %first) {{carries = 1, max_trips = 6}} {COUNT}
  return %last, %ys
}}"""
CELL = """qir 2
graph @cell(%x: f32[T,B,8], %h: f32[B,8]) {
  %xq = quantize(%x) : i8[T,B,8]{scale=0.02}
  %start = quantize(%h) : i16[B,8]{scale=0.0001}
  %last, %ys = scan(%start, %xq) {carries = 1, stacked = 1} with (
      %h: i16[B,8]{scale=0.0001}, %x: i8[B,8]{scale=0.02}) {
    %k = const : i8[8,8]{scale=0.01}
    %d = dot(%x, %k) : i32[B,8]{scale=%x*%k}
    %r = requantize(%d) : i16[B,8]{scale=0.0001}
    %s = add(%r, %h) : i16[B,8]{scale=0.0001}
    %y = dequantize(%s) : f32[B,8]
    return %s, %y
  } : i16[B,8]{scale=0.0001}, f32[T,B,8]
  %z = dequantize(%last) : f32[B,8]
  return %z, %ys
}"""
KERNEL = np.random.default_rng(0).integers(-128, 128, (8, 8)).astype(np.int8)


def cell() -> Graph:
    return qir.parse(CELL, {"k": KERNEL})


def arrays(trips: int, batch: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(trips, batch, 8)).astype(np.float32)
    return x, rng.normal(size=(batch, 8)).astype(np.float32)


def stopped_inputs(*rows: int) -> np.ndarray:
    return np.repeat(np.asarray(rows, np.float32)[:, None], 2, axis=1)


@pytest.mark.parametrize(("rows", "branch"), [((-2, 1, 1), 0), ((1, 1, -1), 1)])
def test_a_loop_that_does_not_end_is_an_error_with_its_place(rows, branch):
    graph, x = qir.parse(STOPPED), stopped_inputs(*rows)
    with pytest.raises(QirError) as wanted:
        qir.evaluate(graph, x, np.int32(branch))
    program = qir.compile(graph)
    with pytest.raises(QirError) as found:
        program(x, np.int32(branch))
    assert str(found.value) == str(wanted.value)
    assert ("%z" if branch else "%last") in str(found.value)


def test_a_loop_that_ends_with_the_last_trip_is_no_error():
    graph, x = qir.parse(STOPPED), stopped_inputs(-1, 0, 3)
    for branch in (np.int32(0), np.int32(1)):
        rows = x if branch == 0 else x + 1
        found, wanted = qir.compile(graph)(rows, branch), qir.evaluate(graph, rows, branch)
        for mine, want in zip(found, wanted, strict=True):
            assert np.array_equal(mine, want)


def test_in_a_traced_function_a_loop_that_does_not_end_stops():
    program = qir.compile(qir.parse(STOPPED))
    x = np.full((3, 2), -9, np.float32)
    last, _ = jax.jit(lambda x: program(x, np.int32(0)))(x)
    assert np.array_equal(last, [-3, -3])


@pytest.mark.parametrize("kernels", [None, False])
def test_numbers_of_64_bits_that_are_only_moved_pass_doors(kernels):
    graph = qir.parse(
        """qir 2
        graph @g(%ids: i64[3], %table: f32[5,2], %k: i64[]) {
          %last, %ys, %js = scan(%table, %k, %ids) {carries = 1, stacked = 1} with (
              %t: f32[5,2], %c: i64[], %i: i64[]) {
            %e = gather(%t, %i) : f32[2]
            %m = maximum(%c, %i) : i64[]
            %two = const 2 : i64[]
            %l = less(%i, %two) : bool[]
            %s = select(%l, %i, %two) : i64[]
            return %m, %e, %s
          } : i64[], f32[3,2], i64[3]
          %w = gather(%table, %last) : f32[2]
          %v = gather(%table, %js) : f32[3,2]
          return %ys, %w, %v
        }"""
    )
    inputs = np.array([4, 1, 0]), np.arange(10, dtype=np.float32).reshape(5, 2), np.int64(2)
    found = qir.compile(graph, kernels=kernels)(*inputs)
    for mine, want in zip(found, qir.evaluate(graph, *inputs), strict=True):
        assert np.array_equal(mine, want)


@pytest.mark.parametrize("op", ["add(%c, %i)", "maximum(%c, %i)"])
def test_numbers_of_64_bits_that_leave_or_are_added_are_refused_with_the_place(op):
    text = f"""qir 2
    graph @g(%ids: i64[3], %k: i64[]) {{
      %last = scan(%k, %ids) {{carries = 1, stacked = 1}} with (%c: i64[], %i: i64[]) {{
        %m = {op} : i64[]
        return %m
      }} : i64[]
      return %last
    }}"""
    with pytest.raises(QirError, match="at most 32 bits, got i64") as found:
        qir.compile(qir.parse(text))
    assert "%k" in str(found.value)


def test_a_sum_of_64_bits_is_refused_at_a_door():
    graph = qir.parse(
        """qir 2
        graph @g(%x: i16[3,2,8]{scale=0.5}) {
          %ys = scan(%x) {stacked = 1} with (%x: i16[2,8]{scale=0.5}) {
            %k = const 300 : i16[8,8]{scale=0.5}
            %s = dot(%x, %k) : i64[2,8]{scale=0.25}
            return %s
          } : i64[3,2,8]{scale=0.25}
          %y = requantize(%ys) : i16[3,2,8]{scale=9.0}
          return %y
        }"""
    )
    with pytest.raises(QirError, match="requantize them") as found:
        qir.compile(graph)
    assert "%s" in str(found.value)


@pytest.mark.parametrize("kernels", [None, False])
def test_the_integers_are_the_same_in_every_transformation(kernels):
    graph = cell()
    program = qir.compile(graph, kernels=kernels)
    x, h = arrays(4, 3)
    wanted = qir.evaluate(graph, x, h)
    jitted = jax.jit(lambda x, h: program(2 * (x / 2), h))
    batched = jax.vmap(program)(np.stack([x, x]), np.stack([h, h]))
    exported = program.export()
    for found in (program(x, h), jitted(x, h), [each[1] for each in batched], exported.call(x, h)):
        for mine, want in zip(found, wanted, strict=True):
            assert np.array_equal(mine, want)
    longer = arrays(7, 2, 1)
    for mine, want in zip(exported.call(*longer), qir.evaluate(graph, *longer), strict=True):
        assert np.array_equal(mine, want)


@pytest.mark.parametrize("kernels", [None, False])
def test_values_inside_are_named_after_their_loop(kernels):
    program = qir.compile(cell(), kernels=kernels)
    assert "last/d" in program.lowerings
    assert "%last/d" in program.report


def test_what_kernels_compute_inside_of_a_loop_of_xla_is_shown():
    text = CELL.replace("%y = deq", "%t = deq").replace(
        "return %s, %y", "%y = tanh(%t) : f32[B,8]\n return %s, %y"
    )
    program = qir.compile(qir.parse(text, {"k": KERNEL}))
    shown = program.partition({"T": 4, "B": 3})
    assert "in region of scan %last" in shown
    assert "dot %d" in shown.partition("in region")[2]


def test_the_parameters_of_bodies_are_named_by_their_constants():
    graph = qir.parse(
        """qir 2
        graph @g(%x: f32[T,3], %h: f32[3]) {
          %a = scan(%h, %x) {carries = 1, stacked = 1} with (%h: f32[3], %x: f32[3]) {
            %k = const : f32[3]
            %m = mul(%h, %k) : f32[3]
            %s = add(%m, %x) : f32[3]
            return %s
          } : f32[3]
          %w = const : f32[3]
          %y = mul(%a, %w) : f32[3]
          return %y
        }""",
        {"k": np.array([0.5, 0.25, 2], np.float32), "w": np.array([1, 2, 3], np.float32)},
    )
    function = XlaExecutor().as_jax(graph)
    x, h = np.ones((2, 3), np.float32), np.ones(3, np.float32)

    def loss(k: jax.Array) -> jax.Array:
        (y,) = function({"k": k}, x, h)
        return jnp.sum(y)

    k = np.array([0.5, 0.25, 2], np.float32)
    # y = ((k + 1) k + 1) w
    assert np.allclose(jax.grad(loss)(k), (2 * k + 1) * np.array([1, 2, 3]))


def test_rounding_at_the_door_is_that_of_the_reference():
    # XLA may move what does not vary out of a loop, but must not take a cast back.
    graph = qir.parse(
        """qir 2
        graph @g(%x: f32[3,64], %k: f32[64]) {
          %f, %ys = scan(%k, %k, %x) {carries = 1, stacked = 1} with (
              %k: f32[64], %c: f32[64], %x: f32[64]) {
            %q = quantize(%k) : i8[64]{scale=0.3}
            %r = dequantize(%q) : f32[64]
            %cq = quantize(%c) : i8[64]{scale=0.1}
            %d = dequantize(%cq) : f32[64]
            %p = mul(%d, %r) : f32[64]
            %pq = quantize(%p) : i8[64]{scale=0.1}
            %n = dequantize(%pq) : f32[64]
            return %n, %pq
          } : f32[64], i8[3,64]{scale=0.1}
          return %f, %ys
        }"""
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 64)).astype(np.float32)
    k = rng.normal(size=64).astype(np.float32)
    for kernels in (None, False):
        found = qir.compile(graph, kernels=kernels)(x, k)
        for mine, want in zip(found, qir.evaluate(graph, x, k), strict=True):
            assert np.array_equal(mine, want)


def test_a_counter_that_steps_over_its_bound_runs_the_trips_that_the_reference_runs():
    # XLA takes the loop of i < 1, i + 2 for one without trips where it sees it whole.
    graph = qir.parse("""qir 2
    graph @g(%x: f32[2]) {
      %zero = const 0 : i32[]
      %i, %y = while(%zero, %x) {carries = 2} with (%i: i32[], %y: f32[2]) {
        %one = const 1 : i32[]
        %more = less(%i, %one) : bool[]
        return %more
      } with (%i: i32[], %y: f32[2]) {
        %two = const 2 : i32[]
        %next = add(%i, %two) : i32[]
        %turned = neg(%y) : f32[2]
        return %next, %turned
      } : i32[], f32[2]
      return %i, %y
    }""")
    found = qir.compile(graph)(np.ones(2, np.float32))
    assert [np.asarray(array).tolist() for array in found] == [2, [-1, -1]]
