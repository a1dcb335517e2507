"""Movements of bytes by generated kernels, against the reference."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

from qir.backends.cpu.target import host_target
from qir.backends.native.pattern import match
from qir.backends.native.patterns.movement import _regular
from qir.ir.signature import Sizes
from qir.text import parse
from qir.types import Array
from tests.backends.cpu.harness import check, planned
from tests.drawing import examples
from tests.ops.programs import program

ELEMENTS = st.sampled_from(["i8", "u8", "i32"])
SHAPES = st.one_of(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.lists(st.integers(14, 40), min_size=1, max_size=3),
)


def spelled(element: str, shape: Sequence[int]) -> str:
    code = "{scale=0.5}" if element == "i32" else "{scale=0.5, zp=3}"
    return f"{element}[{','.join(map(str, shape))}]{code}"


def numbers(element: str, shape: Sequence[int]) -> Array:
    """Returns numbers of which no two neighbours are equal."""
    dtype = {"i8": np.int8, "u8": np.uint8, "i32": np.int32}[element]
    return (np.arange(np.prod(shape)) * 77 + 1).astype(dtype).reshape(shape)


@examples(40)
@given(ELEMENTS, SHAPES, st.data())
def test_transpose(element: str, shape: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    result = [shape[axis] for axis in order]
    line = f"transpose(%x) {{permutation={order}}} : {spelled(element, result)}"
    check(program(f"%x: {spelled(element, shape)}", line), numbers(element, shape))


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((3, 120, 130), (1, 2, 0)),
        ((120, 130, 3), (2, 0, 1)),
        ((65, 50, 51), (1, 2, 0)),
        ((2, 8, 128, 64), (0, 2, 1, 3)),
        ((300, 301), (1, 0)),
    ],
)
@pytest.mark.parametrize("element", ["u8", "i32"])
def test_transposes_in_many_tasks(
    element: str, shape: tuple[int, ...], order: tuple[int, ...]
) -> None:
    result = [shape[axis] for axis in order]
    line = f"transpose(%x) {{permutation={list(order)}}} : {spelled(element, result)}"
    check(program(f"%x: {spelled(element, shape)}", line), numbers(element, shape))


@examples(40)
@given(ELEMENTS, SHAPES, st.data())
def test_slice(element: str, shape: list[int], data: st.DataObject) -> None:
    start = [data.draw(st.integers(0, size - 1)) for size in shape]
    limit = [data.draw(st.integers(low + 1, size)) for low, size in zip(start, shape, strict=True)]
    stride = [data.draw(st.integers(1, 3)) for _ in shape]
    result = [len(range(*cut)) for cut in zip(start, limit, stride, strict=True)]
    attributes = f"axes={list(range(len(shape)))}, start={start}, limit={limit}, stride={stride}"
    line = f"slice(%x) {{{attributes}}} : {spelled(element, result)}"
    check(program(f"%x: {spelled(element, shape)}", line), numbers(element, shape))


@examples(40)
@given(ELEMENTS, SHAPES, st.data())
def test_concat_and_split(element: str, shape: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    parts = [[*shape[:axis], size, *shape[axis + 1 :]] for size in sizes]
    whole = [*shape[:axis], sum(sizes), *shape[axis + 1 :]]
    inputs = ", ".join(f"%x{i}: {spelled(element, part)}" for i, part in enumerate(parts))
    names = ", ".join(f"%x{i}" for i in range(len(parts)))
    line = f"concat({names}) {{axis={axis}}} : {spelled(element, whole)}"
    check(program(inputs, line), *[numbers(element, part) for part in parts])
    types = ", ".join(spelled(element, part) for part in parts)
    line = f"split(%x) {{axis={axis}, sizes={sizes}}} : {types}"
    graph = program(f"%x: {spelled(element, whole)}", line, len(parts))
    check(graph, numbers(element, whole))


@examples(40)
@given(ELEMENTS, SHAPES, st.data())
def test_pad(element: str, shape: list[int], data: st.DataObject) -> None:
    low, high = ([data.draw(st.integers(0, 3)) for _ in shape] for _ in range(2))
    result = [sum(sizes) for sizes in zip(low, shape, high, strict=True)]
    value = data.draw(st.sampled_from([0.0, 1.5, -20.0, float("-inf")]))
    if element == "i32" and np.isinf(value):
        value = -7.0
    attributes = f"low={low}, high={high}, value={value}"
    line = f"pad(%x) {{{attributes}}} : {spelled(element, result)}"
    check(program(f"%x: {spelled(element, shape)}", line), numbers(element, shape))


@examples(40)
@given(ELEMENTS, SHAPES, st.data())
def test_reverse_tile_and_broadcast(element: str, shape: list[int], data: st.DataObject) -> None:
    x = numbers(element, shape)
    type_ = spelled(element, shape)
    axes = [axis for axis in range(len(shape)) if data.draw(st.booleans())]
    check(program(f"%x: {type_}", f"reverse(%x) {{axes={axes}}} : {type_}"), x)
    repeats = [data.draw(st.integers(1, 3)) if axis < 3 else 1 for axis in range(len(shape))]
    result = [size * count for size, count in zip(shape, repeats, strict=True)]
    line = f"tile(%x) {{repeats={repeats}}} : {spelled(element, result)}"
    if len(shape) + sum(count > 1 for count in repeats) <= 7:
        check(program(f"%x: {type_}", line), x)
    narrow = [data.draw(st.sampled_from([1, size])) for size in shape]
    line = f"broadcast(%x) : {type_}"
    check(program(f"%x: {spelled(element, narrow)}", line), numbers(element, narrow))


@pytest.mark.parametrize("nearest", ["floor", "round_prefer_ceil", "round_prefer_floor"])
@pytest.mark.parametrize("factors", [(1, 1), (2, 2), (3, 1), (1, 4)])
def test_resize_by_whole_factors(nearest: str, factors: tuple[int, int]) -> None:
    shape, sizes = (2, 5, 4, 3), [5 * factors[0], 4 * factors[1]]
    coordinates = "asymmetric" if nearest == "floor" else "half_pixel"
    line = (
        f"resize_nearest(%x) {{sizes={sizes}, coordinates={coordinates}, nearest={nearest}}} : "
        f"{spelled('i8', (2, *sizes, 3))}"
    )
    check(program(f"%x: {spelled('i8', shape)}", line), numbers("i8", shape))


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ([0, 0, 1, 1], (0, 1, 2)),
        ([1, 3, 5], (1, 2, 1)),
        ([0, 0, 0], (0, 1, 3)),
        ([0, 1, 1, 2], None),
        ([0, 0, 1], None),
        ([0, 0, 1, 2], None),
    ],
)
def test_regular_places(places: list[int], found: tuple[int, int, int] | None) -> None:
    assert _regular(places) == found


@pytest.mark.parametrize(("result", "steps"), [("%t", ["r", "t"]), ("%s", ["r", "s"])])
def test_reshape_copies_results_alone(result: str, steps: list[str]) -> None:
    flat, square = spelled("i8", [30]), spelled("i8", [6, 5])
    graph = parse(
        f"""graph @test(%x: {flat}) {{
          %r = relu(%x) : {flat}
          %s = reshape(%r) : {square}
          {f"%t = relu(%s) : {square}" if result == "%t" else ""}
          return {result}
        }}"""
    )
    check(graph, numbers("i8", [30]))
    assert [step.label for step in planned(graph, Sizes({})).plan.steps] == steps


def test_plain_floats_move_beside_casts_alone() -> None:
    target = host_target()
    assert target is not None
    graph = program("%x: f32[2,3]", "transpose(%x) {permutation=[1,0]} : f32[3,2]")
    node = graph.outputs[0].node
    assert node is not None
    assert isinstance(match(node, target), str)
