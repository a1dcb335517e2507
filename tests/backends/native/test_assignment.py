"""Concatenations whose operands are made where they are to lie."""

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import qir
from qir.backends.cpu.target import host_target
from qir.ir import Graph
from qir.ir.signature import Sizes
from qir.types import Array
from tests.backends.cpu.harness import check, planned

pytestmark = pytest.mark.skipif(host_target() is None, reason="no kernels for this machine")

CODE = "{scale=0.5, zp=3}"
OTHER = "{scale=0.031, zp=-7}"
SHAPE = "[B,6,7,C]"
ACCUMULATED = "{scale=%x*%k_NAME}"

PRODUCERS = {
    "relu": "%NAME = relu(%z) : i8[B,6,7,C]" + CODE,
    "clip": "%NAME = clip(%z) {low = -3, high = 5} : i8[B,6,7,C]" + CODE,
    "requantize": "%NAME = requantize(%x) : i8[B,6,7,C]" + CODE,
    "quantize": "%NAME = quantize(%f) : i8[B,6,7,C]" + CODE,
    "rescale": "%NAME = requantize(%a) : i8[B,6,7,C]" + CODE,
    "max_pool": "%NAME = max_pool(%z) {window = [3, 3], padding = same} : i8[B,6,7,C]" + CODE,
    "avg_pool": "%NAME = avg_pool(%x) {window = [3, 3], padding = same} : i8[B,6,7,C]" + CODE,
    "dense": "conv(%x, %k_NAME)",
    "winograd": "conv(%x, %k_NAME) {padding = same}",
    "depthwise": "conv(%x, %k_NAME) {padding = same, groups = C}",
    "reverse": "%NAME = reverse(%z) {axes = [1, 3]} : i8[B,6,7,C]" + CODE,
    "add": "%NAME = add(%x, %z) : i8[B,6,7,C]" + CODE,
}
KERNELS = {"dense": (1, 1, 0), "winograd": (3, 3, 0), "depthwise": (3, 3, 1)}
IN_PLACE = [name for name in PRODUCERS if name != "add"]


def program(names: Sequence[str], channels: int, axis: int) -> Graph:
    """Returns a program that concatenates what some producers make, with its arrays."""
    rng = np.random.default_rng(channels)
    arrays, lines = {}, []
    for index, producer in enumerate(names):
        text = PRODUCERS[producer]
        if producer in KERNELS:
            high, wide, depthwise = KERNELS[producer]
            rows = 1 if depthwise else channels
            shape = f"[{high},{wide},{rows},C]"
            lines.append(f"%k_NAME = const : i8{shape}{{scale=0.01}}")
            lines.append(f"%s_NAME = {text} : i32[B,6,7,C]{ACCUMULATED}")
            text = "%NAME = requantize(%s_NAME) : i8[B,6,7,C]" + CODE
            arrays[f"k_n{index}"] = rng.integers(-128, 128, (high, wide, rows, channels), np.int8)
        lines = [line.replace("NAME", f"n{index}") for line in [*lines, text]]
    sizes = ["B", "6", "7", "C"]
    total = len(names) * (channels if axis == 3 else 6)
    sizes[axis] = f"{len(names)}*B" if axis == 0 else str(total)
    joined = ", ".join(f"%n{index}" for index in range(len(names)))
    text = "\n  ".join(
        [
            f"graph @joined(%x: i8{SHAPE}{OTHER}, %z: i8{SHAPE}{CODE}, %f: f32{SHAPE}, "
            f"%a: i32{SHAPE}{{scale=0.0123}}) {{",
            *lines,
            f"%y = concat({joined}) {{axis = {axis}}} : i8[{','.join(sizes)}]{CODE}",
            "return %y\n}\n",
        ]
    )
    return qir.parse(text.replace("C", str(channels)), arrays)


def inputs(channels: int, batch: int) -> list[Array]:
    rng = np.random.default_rng(batch)
    shape = (batch, 6, 7, channels)
    x, z = (rng.integers(-128, 128, shape, np.int8) for _ in range(2))
    real = rng.normal(0, 20, shape).astype(np.float32)
    return [x, z, real, rng.integers(-9999, 9999, shape, np.int32)]


def copies(graph, batch=2):
    """Returns how many steps only move bytes."""
    steps = planned(graph, Sizes({"B": batch})).plan.steps
    return sum(step.kernel.name in ("Copy", "Transpose") for step in steps)


@pytest.mark.parametrize("channels", [3, 16, 37])
@pytest.mark.parametrize("producer", IN_PLACE)
def test_channels_are_written_in_place(producer, channels):
    # Beside another of its kind and between others: each would show what is written past its rows.
    names = ["relu", producer, producer, "relu"]
    graph = program(names, channels, 3)
    assert copies(graph) == 2 * (producer == "reverse")
    check(graph, *inputs(channels, 2))


@pytest.mark.parametrize("producer", PRODUCERS)
def test_batches_are_written_in_place(producer):
    graph = program(["relu", producer, "requantize"], 16, 0)
    assert copies(graph) == (producer == "reverse")
    check(graph, *inputs(16, 3))


def test_rows_of_one_image_are_written_in_place():
    graph = program(["add", "dense"], 16, 1)
    assert copies(graph, batch=1) == 0
    assert copies(graph, batch=2) == 2
    for batch in (1, 2):
        check(graph, *inputs(16, batch))


def test_what_cannot_be_written_in_place_is_copied():
    graph = program(["relu", "add"], 16, 3)
    assert copies(graph) == 1
    check(graph, *inputs(16, 2))


READ = """
graph @read(%x: i8[2,5,16]{scale=0.5}) {
  %a = relu(%x) : i8[2,5,16]{scale=0.5}
  %b = clip(%x) {low = -3, high = 5} : i8[2,5,16]{scale=0.5}
  %y = concat(%a, %b, %a) {axis = AXIS} : i8[SHAPE]{scale=0.5}
  %z = add(%a, %b) : i8[2,5,16]{scale=0.25, zp=9}
  RETURN
}
"""


@pytest.mark.parametrize(
    ("axis", "shape", "returned", "expected"),
    [
        # One copy of what stands there twice.
        (0, "6,5,16", "return %y, %z", 1),
        (0, "6,5,16", "return %y, %z, %b", 2),
        (2, "2,5,48", "return %y, %z", 3),
    ],
)
def test_what_others_read_lies_together(axis, shape, returned, expected):
    text = READ.replace("AXIS", str(axis)).replace("SHAPE", shape).replace("RETURN", returned)
    graph = qir.parse(text)
    assert copies(graph) == expected
    check(graph, np.random.default_rng(0).integers(-128, 128, (2, 5, 16), np.int8))


NESTED = """
graph @nested(%x: i8[2,5,7]{scale=0.5}) {
  %a = relu(%x) : i8[2,5,7]{scale=0.5}
  %b = clip(%x) {low = -3, high = 5} : i8[2,5,7]{scale=0.5}
  %c = clip(%x) {low = -1, high = 2} : i8[2,5,7]{scale=0.5}
  %k = const [[[1],[2],[3],[4],[5]],[[1],[2],[3],[4],[5]]] : i8[2,5,1]{scale=0.5}
  %ab = concat(%b, %k, %a) {axis = 2} : i8[2,5,15]{scale=0.5}
  %y = concat(%c, %ab) {axis = 2} : i8[2,5,22]{scale=0.5}
  %t = relu(%x) : i8[2,5,7]{scale=0.5}
  %u = concat(%t, %y, %c) {axis = 2} : i8[2,5,36]{scale=0.5}
  return %u
}
"""


def test_one_inside_another():
    graph = qir.parse(NESTED)
    # The constant, and what two of them read.
    assert copies(graph) == 3
    check(graph, np.random.default_rng(0).integers(-128, 128, (2, 5, 7), np.int8))
