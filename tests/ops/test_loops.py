"""scan and while: what they run, against a plain statement of `jax.lax`, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qir
from qir.errors import QirError
from qir.ops import Scan, While
from qir.ops.regions import Passage
from qir.types import Affine, Array, Dim, DType, TensorType

Returned = tuple[Any, ...]


def stated_scan(
    body: Callable[..., Returned],
    fixed: Sequence[Array],
    carried: Sequence[Array],
    stacked: Sequence[Array],
    trips: int,
    *,
    reverse: bool,
) -> list[Array]:
    """The documentation of `jax.lax.scan` in plain Python."""
    state, parts = list(carried), []
    order = list(range(trips))
    for trip in order[::-1] if reverse else order:
        state, part = body(*fixed, *state, *[array[trip] for array in stacked])
        parts.append(part)
    if reverse:
        parts = parts[::-1]
    return [*state, *map(np.stack, zip(*parts, strict=True))]


def same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    pairs = list(zip(found, expected, strict=True))
    return all(np.array_equal(a, b) and np.shape(a) == np.shape(b) for a, b in pairs)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("trips", [1, 4])
def test_scan_is_that_of_jax(trips: int, reverse: bool) -> None:
    def trip(w: Any, h: Any, n: Any, x: Any, y: Any) -> tuple[list[Any], list[Any]]:
        return [h * w + x, n + 1], [h - y, n]

    rng = np.random.default_rng(0)
    w, h, n = rng.integers(-2, 3, 3), rng.integers(-2, 3, 3), np.asarray(5)
    stacked = [rng.integers(-9, 9, (trips, 3)), rng.integers(-9, 9, (trips, 3))]
    op = Scan(carries=2, stacked=2, reverse=reverse)
    shapes = [(3,), (), (trips, 3), (trips,)]
    found = op.run(
        [lambda *arrays: [x for part in trip(*arrays) for x in part]], [w, h, n, *stacked], shapes
    )
    assert same(found, stated_scan(trip, [w], [h, n], stacked, trips, reverse=reverse))
    (last, parts) = lax.scan(
        lambda state, part: (
            tuple(trip(w, *state, *part)[0]),
            tuple(trip(w, *state, *part)[1]),
        ),
        (jnp.asarray(h), jnp.asarray(n)),
        tuple(map(jnp.asarray, stacked)),
        reverse=reverse,
    )
    assert same(found, [*last, *parts])


def test_a_scan_of_no_trips_gives_what_it_was_given() -> None:
    def never(*_: Any) -> Returned:
        raise AssertionError("no trip is made")

    h = np.arange(3)
    found = Scan(carries=1, stacked=1).run([never], [h, np.zeros((0, 2))], [(3,), (0, 4)])
    assert same(found, [h, np.empty((0, 4))])
    assert same(Scan(carries=1, trips=0).run([never], [h], [(3,)]), [h])


def test_a_scan_over_nothing_counts_its_trips() -> None:
    counted = Scan(carries=1, trips=3).run([lambda n: [n + 1, n * n]], [np.int64(2)], [(), (3,)])
    assert same(counted, [5, [4, 9, 16]])


@pytest.mark.parametrize(("limit", "first"), [(5, 0), (5, 4), (5, 5), (0, 3)])
def test_while_is_that_of_jax(limit: int, first: int) -> None:
    def goes_on(limit: Any, n: Any, _: Any) -> Returned:
        return (n < limit,)

    def body(_: Any, n: Any, x: Any) -> Returned:
        return n + 1, x * 2 + n

    start = (np.int64(first), np.arange(3))
    found = While(carries=2).run([goes_on, body], [np.int64(limit), *start], [(), (3,)])
    state: Any = start
    while goes_on(limit, *state)[0]:
        state = body(limit, *state)
    assert same(found, state)
    traced = lax.while_loop(
        lambda state: goes_on(limit, *state)[0],
        lambda state: body(limit, *state),
        tuple(map(jnp.asarray, start)),
    )
    assert same(found, traced)


def test_a_loop_may_make_as_many_trips_as_it_says_and_no_more() -> None:
    def run(limit: int) -> list[Any]:
        regions = [lambda n: [n < limit], lambda n: [n + 1]]
        return While(carries=1, max_trips=10).run(regions, [np.int64(0)], [()])

    assert run(10) == [10]
    with pytest.raises(QirError, match="while: expected an end within 10 trips, got none"):
        run(11)


ENDLESS = """
graph @g(%n: i32[]) {
  %y = scan(%n) {carries = 1, trips = 2} with (%n: i32[]) {
    %z = while(%n) {carries = 1, max_trips = 20} with (%n: i32[]) {
      %k = const 7 : i32[]
      %b = not_equal(%n, %k) : bool[]
      return %b
    } with (%n: i32[]) {
      %two = const 2 : i32[]
      %m = add(%n, %two) : i32[]
      return %m
    } : i32[] loc("decode.py:12")
    return %z
  } : i32[]
  return %y
}
"""


@pytest.mark.parametrize("kernels", [None, False, True])
def test_a_loop_without_an_end_is_stopped_and_named(kernels: bool | None) -> None:
    graph = qir.parse(ENDLESS)
    compute: Callable[..., Any] = (
        (lambda n: qir.evaluate(graph, n))
        if kernels is None
        else qir.compile(graph, kernels=kernels)
    )
    assert np.asarray(compute(np.int32(1))[0]) == 7
    with pytest.raises(QirError) as caught:
        jax.block_until_ready(compute(np.int32(0)))
    message = "while: expected an end within 20 trips, got none"
    assert caught.value.message.startswith(message)
    assert any("%z, decode.py:12" in place for place in caught.value.places)


def types(*shapes: Any) -> list[TensorType]:
    return [TensorType(tuple(shape), DType.F32) for shape in shapes]


def test_trips_are_those_of_what_is_stacked() -> None:
    named = Dim.named("T")
    assert Scan(stacked=2).trip_count(types((2,), (named, 3), (named,))) == named
    assert Scan(trips=4).trip_count([]) == 4
    assert While(carries=1).trip_count(types((2,))) is None


def test_passages_of_a_scan_and_a_loop() -> None:
    assert list(map(str, Scan(carries=1, stacked=1).passages(3, 2, 1))) == [
        "invariant operand 0",
        "carried operand 1",
        "stacked operand 2",
        "stacked result 1",
    ]
    invariant, carried = While(carries=1).passages(2, 1, 2)
    assert invariant == Passage("invariant", 0, ((0, 0), (1, 0)))
    assert carried == Passage("carried", 1, ((0, 1), (1, 1)), ((1, 0),), 0)


def test_a_code_goes_in_without_the_axis_of_trips_and_comes_out_with_it() -> None:
    scales = np.array([[[0.5, 0.25]]])
    outside = TensorType((4, 3, 2), Affine.of(DType.I8, scales))
    one = Passage("stacked", 0)
    inside = one.inner(outside)
    assert inside == TensorType((3, 2), Affine.of(DType.I8, scales[0]))
    assert one.outer(inside, 4) == outside
    varying = TensorType((2, 3), Affine.of(DType.I8, [[0.5], [0.25]]))
    with pytest.raises(QirError, match="the code of stacked operand 0 to be one for all trips"):
        one.inner(varying)
    with pytest.raises(QirError, match="stacked operand 0 to have an axis for the trips"):
        one.inner(TensorType((), DType.F32))


def test_a_loop_whose_state_comes_again_is_stopped_long_before_its_last_trip() -> None:
    trips = 0

    def turn(state: Array) -> list[Array]:
        nonlocal trips
        trips += 1
        return [np.roll(state, 1)]

    regions: list[Callable[..., list[Any]]] = [lambda state: [np.bool_(True)], turn]
    with pytest.raises(QirError, match="expected an end within 1000000 trips"):
        While(carries=1).run(regions, [np.array([1, 2, 3])], [(3,)])
    assert trips < 2000
    # A long loop that does end does so; its state never comes again.
    regions = [lambda state: [state[0] < 5000], lambda state: [state + 1]]
    (last,) = While(carries=1).run(regions, [np.zeros(1, np.int32)], [(1,)])
    assert last == [5000]
