"""What patterns tell kernels: windows, broadcasts, packed weights, and where rows of sums end."""

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import qir
from qir.backends.cpu.target import TARGETS
from qir.backends.native.kernels.pool import PoolKernel
from qir.backends.native.kernels.reduce import RowsKernel
from qir.backends.native.pattern import Placement
from qir.backends.native.patterns.depthwise import DepthwiseGeometry, DepthwiseWriter, paired
from qir.backends.native.patterns.elementwise import broadcast
from qir.backends.native.patterns.epilogue import matched_epilogue
from qir.backends.native.patterns.pool import PoolWriter
from qir.backends.native.patterns.reduce import combination
from qir.backends.native.plan import Plan
from qir.ir.signature import Sizes
from qir.ops import Conv
from qir.ops.pool import Pool
from tests.backends.cpu import harness

AVX2 = TARGETS["avx2"]


def placement():
    return Placement(Plan(1, 1, 1), {}, Sizes({}), AVX2)


def test_windows_of_one_axis_are_rows_and_of_two_are_pixels():
    graph = qir.parse("""
        graph @g(%x: i8[2,9,4]{scale=0.5}, %y: i8[2,8,6,4]{scale=0.5}) {
          %a = max_pool(%x) {window = [3], strides = [2], padding = [[1, 0]]} : i8[2,4,4]{scale=0.5}
          %b = max_pool(%y) {window = [2, 3], strides = [2, 1]} : i8[2,4,4,4]{scale=0.5}
          return %a, %b
        }""")
    rows, pixels, _ = graph.nodes
    assert isinstance(rows.op, Pool)
    assert isinstance(pixels.op, Pool)
    way = combination("greatest", graph.inputs[0])
    assert PoolWriter(rows.op, rows, way).geometry(placement()) == {
        "size": (1, 9, 1),
        "places": (1, 4, 1),
        "window": (1, 3, 1),
        "stride": (1, 2, 1),
        "before": (0, 1, 0),
    }
    assert PoolWriter(pixels.op, pixels, way).geometry(placement()) == {
        "size": (1, 8, 6),
        "places": (1, 4, 4),
        "window": (1, 2, 3),
        "stride": (1, 2, 1),
        "before": (0, 0, 0),
    }


@pytest.mark.parametrize(
    ("shape", "other", "sizes"),
    [
        ((2, 3, 4, 5), (2, 3, 4, 5), (1, 1, 120)),
        ((2, 3, 4, 5), (2, 1, 1, 5), (2, 12, 5)),
        ((2, 3, 4, 5), (5,), (1, 24, 5)),
        ((2, 3, 4, 5), (2, 3, 1, 1), (6, 20, 1)),
    ],
)
def test_a_broadcast_has_three_parts(shape, other, sizes):
    axes = broadcast(shape, other)
    assert axes is not None
    assert axes.sizes(shape) == sizes


def test_a_row_of_pairs_tells_where_its_weights_and_lines_lie():
    pairing = paired(3, (1, 3), (1, 1), (1, 1))
    found = pairing.table(1000, 64)
    assert [list(row) for row in found] == [
        [1000 * phase, *(64 * pair for pair in pairs)]
        for phase, pairs in zip(pairing.phases, pairing.rows, strict=True)
    ]
    assert found.dtype == np.int64


def test_packed_depthwise_weights_hold_every_tap_once_for_each_phase():
    columns = 20
    graph = qir.parse(
        f"""
        graph @g(%x: i8[1,9,9,{columns}]{{scale=0.5}}) {{
          %k = const : i8[3,3,1,{columns}]{{scale=0.5}}
          %a = conv(%x, %k) {{groups = {columns}}} : i32[1,7,7,{columns}]{{scale=%x*%k}}
          return %a
        }}""",
        {"k": np.arange(1, 181).reshape(3, 3, 1, 20).astype(np.uint8).view(np.int8)},
    )
    _, node, _ = graph.nodes
    assert isinstance(node.op, Conv)
    writer = DepthwiseWriter(node.op, node, matched_epilogue(node.output))
    geometry = DepthwiseGeometry((1, 3, 3), (1, 1, 1), (1, 1, 1))
    pairing = geometry.pairing(2)
    weights = node.inputs[1].array.reshape(9, columns).astype(np.int32)
    packed = writer.packed(weights, pairing, geometry)
    assert packed.shape[1] == len(set(pairing.phases)) == 2
    assert [list(block) for block in writer.order()] == [list(range(16)), list(range(4, 20))]
    for block, order in zip(packed, writer.order(), strict=True):
        for phase in block:
            for place, column in enumerate(order):
                numbers = phase[:, :, place].reshape(-1)
                taps = weights[:, column]
                assert sorted(numbers[numbers != 0]) == sorted(taps[taps != 0])


@pytest.mark.parametrize(
    ("axis", "shape", "kernel"), [(2, "3,5,1", RowsKernel), (1, "3,1,7", PoolKernel)]
)
def test_reductions_of_the_last_axis_are_rows_and_others_are_pools(axis, shape, kernel):
    graph = qir.parse(f"""
        graph @g(%x: i8[3,5,7]{{scale=0.5}}) {{
          %a = reduce_max(%x) {{axes = [{axis}], keep_axes = true}} : i8[{shape}]{{scale=0.5}}
          return %a
        }}""")
    (step,) = harness.planned(graph, Sizes({}), target=AVX2).plan.steps
    assert isinstance(step.kernel, kernel)
