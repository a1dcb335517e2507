"""Where tensors of a plan lie, which nodes share a call, and what compile makes of it."""

import os

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

import qir
from qir.__main__ import main
from qir.backends.cpu.target import host_target
from qir.backends.native.kernels.reduce import ArgMaxKernel
from qir.backends.native.partition import Cluster, partition
from qir.backends.native.plan import SLACK, Buffer, Plan
from qir.backends.reference.interpreter import run
from qir.backends.xla import kernel_choice, measure
from qir.backends.xla.rules import legal_ways
from qir.errors import QirError
from qir.ops import Const, Return

TARGET = host_target()
pytestmark = pytest.mark.skipif(TARGET is None, reason="no kernels for this machine")

TEXT = """
graph @network(%x: i8[B,6,6,16]{scale=0.031, zp=-7}) {
  %k = const : i8[1,1,16,16]{scale=0.01}
  %a = conv(%x, %k) : i32[B,6,6,16]{scale=%x*%k}
  %y = requantize(%a) : i8[B,6,6,16]{scale=0.5, zp=11}
  %s = add(%y, %x) : i8[B,6,6,16]{scale=0.5, zp=3}
  %f = dequantize(%s) : f32[B,6,6,16]
  %e = exp(%f) : f32[B,6,6,16]
  %q = quantize(%e) : i8[B,6,6,16]{scale=0.1}
  %p = max_pool(%q) {window = [2, 2], strides = [2, 2]} : i8[B,3,3,16]{scale=0.1}
  return %p
}
"""


def network():
    return qir.parse(TEXT, {"k": np.arange(256).reshape(1, 1, 16, 16).astype(np.int8)})


def images(count):
    return np.random.default_rng(count).integers(-128, 128, (count, 6, 6, 16), np.int8)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 8), st.integers(0, 8)), min_size=1))
def test_tensors_that_live_at_the_same_time_share_no_byte(lives):
    plan = Plan(0, 0, 1)
    buffers: list[Buffer] = []
    for size, *ends in lives:
        buffer = plan.temporary(size).buffer
        buffer.first, buffer.last = min(ends), max(ends)
        buffers.append(buffer)
    arena = plan.arena()
    for index, one in enumerate(buffers):
        assert one.offset % 64 == 0
        assert one.offset + one.size <= arena
        for other in buffers[:index]:
            together = one.first <= other.last and other.first <= one.last
            apart = one.offset + one.size <= other.offset or other.offset + other.size <= one.offset
            assert apart or not together
    assert all(
        buffer.size >= size + SLACK for buffer, (size, *_) in zip(buffers, lives, strict=True)
    )


@pytest.mark.parametrize(
    ("parameters", "tensors", "message"),
    [
        ({}, {}, "parameters of ArgMax, got no block_rows, count"),
        (
            {"block_rows": 1, "count": 8, "columns": 8},
            {},
            "parameters of ArgMax, got also columns",
        ),
        (
            {"block_rows": 1, "cuont": 8},
            {},
            "parameters of ArgMax, got no count and also cuont",
        ),
        (
            {"block_rows": 1, "count": 8},
            {"terms": 0},
            "tensors of ArgMax, got no out and also terms",
        ),
    ],
)
def test_a_step_gives_a_kernel_what_it_reads_and_nothing_else(parameters, tensors, message):
    plan = Plan(1, 1, 1)
    views = {"x": plan.operand(0), **{name: plan.operand(0) for name in tensors}}
    with pytest.raises(QirError, match=f"plan: step y: expected the {message}"):
        plan.step("y", ArgMaxKernel(unsigned=False), {"rows": 1, **parameters}, views)
    assert plan.steps == []


def test_clusters_hold_what_they_can_and_nothing_returns_to_them():
    graph = network()
    nodes = [node for node in graph.nodes if not isinstance(node.op, Const | Return)]
    assert TARGET is not None
    found = partition(nodes, graph.outputs, TARGET)
    shown = [
        [node.op.name for match in part.matches for node in match.nodes]
        if isinstance(part, Cluster)
        else part.op.name
        for part in found.parts
    ]
    assert shown == [["conv", "requantize", "add", "dequantize"], "exp", ["quantize", "max_pool"]]
    assert {node.op.name: reason for node, reason in found.reasons.items()} == {
        "exp": "no kernel for exp"
    }


def test_the_report_names_kernels_and_why_there_is_none():
    compiled = qir.compile(network())
    assert compiled.lowerings["a"] == "kernel_convolution"
    assert compiled.lowerings["e"] != "kernel_convolution"
    (line,) = (line for line in compiled.report.splitlines() if line.startswith("%e "))
    assert line.endswith("no kernel: no kernel for exp")


def test_no_images_at_all():
    assert qir.compile(network())(images(0))[0].shape == (0, 3, 3, 16)


@pytest.mark.parametrize("count", [1, 3])
def test_sizes_of_named_dimensions_and_transformations(count):
    graph, compiled = network(), qir.compile(network())
    wanted = run(graph, images(count))[0]
    assert np.array_equal(compiled(images(count))[0], wanted)
    assert np.array_equal(jax.jit(lambda x: compiled(x)[0])(images(count)), wanted)
    stacked = np.stack([images(count)] * 2)
    assert np.array_equal(jax.vmap(lambda x: compiled(x)[0])(stacked), np.stack([wanted] * 2))


def test_a_program_can_do_without_kernels(monkeypatch):
    assert "kernel_convolution" not in qir.compile(network(), kernels=False).lowerings.values()
    monkeypatch.setattr(kernel_choice, "find_spec", lambda name: None)
    assert "llvmlite is not installed" in qir.compile(network()).report
    with pytest.raises(QirError, match="llvmlite is not installed"):
        qir.compile(network(), kernels=True)


def test_a_fork_is_told(monkeypatch):
    compiled = qir.compile(network())
    compiled(images(1))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(QirError, match="a fork without XLA's threads"):
        compiled(images(1))


def test_tensors_without_numbers_are_left_to_xla():
    graph = qir.parse(
        """
graph @empty(%x: i8[0,4]{scale=0.5}, %y: i8[2,4]{scale=0.5}) {
  %c = concat(%x, %y) {axis = 0} : i8[2,4]{scale=0.5}
  return %c
}
"""
    )
    inputs = np.zeros((0, 4), np.int8), np.arange(8, dtype=np.int8).reshape(2, 4)
    compiled = qir.compile(graph)
    assert np.array_equal(compiled(*inputs)[0], inputs[1])
    assert "a tensor without numbers" in compiled.report


def test_the_partition_as_text(tmp_path, capsys):
    graph = network()
    text = qir.compile(graph).partition({"B": 1})
    lines = text.splitlines()
    parts = [line for line in lines if not line.startswith(" ")]
    assert [line.split(",")[0].split(":")[0] for line in parts] == [
        "call 0",
        "XLA",
        "call 1",
    ]
    assert "XLA: exp %e: no kernel for exp" in lines
    at = lines.index("  operand0: %x: i8[B,6,6,16]{scale=0.031, zp=-7}")
    assert lines[at + 1].startswith("  result0: %f: f32[B,6,6,16]")
    assert lines[at + 2].startswith("  2 steps, 1 thread; ")
    # Stored between the steps: the sum, 6 * 6 * 16 bytes and 64 behind it.
    assert "640 of temporary tensors" in lines[at + 2]
    assert lines[at + 3].startswith("   0  conv %a, requantize %y, add %s: qir_dense_")
    assert "x=operand0, weights=constants+0" in lines[at + 4]
    assert lines[at + 4].endswith("out=temporary[0:640], residual=operand0")
    qir.save(graph, tmp_path / "network.qir")
    assert main(["partition", str(tmp_path / "network.qir")]) == 0
    assert capsys.readouterr().out == text + "\n"


def test_without_kernels_there_is_no_partition():
    compiled = qir.compile(network(), kernels=False)
    assert compiled.partition({"B": 1}) == "no kernels: XLA computes all of it"
    with pytest.raises(QirError, match=r'the dimension B, such as partition\(\{"B": 8\}\)'):
        compiled.partition()


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"B": 0}, "partition: expected B to be at least 1, got 0"),
        ({"b": 1}, "dimension: no input has a dimension b"),
        ({}, "partition: expected a size for the dimension B"),
    ],
)
def test_sizes_that_have_no_partition(sizes, problem):
    with pytest.raises(QirError, match=problem):
        qir.compile(network()).partition(sizes)


def test_the_partition_says_what_takes_no_step():
    graph = qir.parse(
        """
graph @two(%x: i8[2,8]{scale=0.5}) {
  %r = relu(%x) : i8[2,8]{scale=0.5}
  %s = reshape(%r) : i8[16]{scale=0.5}
  %y = relu(%s) : i8[16]{scale=0.5}
  return %y
}
"""
    )
    assert "reshape %s: no step, the bytes lie there already" in qir.compile(graph).partition()


def test_what_kernels_compute_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("QIR_CACHE_DIR", str(tmp_path))
    measured = []

    def fake(cluster):
        measured.append(cluster.target.op.name)
        return {way.name: 1.0 for way in legal_ways(cluster.target)}

    monkeypatch.setattr(measure, "measured", fake)
    compiled = qir.compile(network(), measure=True)
    assert measured == []
    assert compiled.lowerings["a"] == "kernel_convolution"
    qir.compile(network(), measure=True, kernels=False)
    assert measured == ["conv"]
