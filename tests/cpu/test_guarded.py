"""Kernels touch nothing outside of their tensors: each family runs next to inaccessible pages."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings

pytest.importorskip("llvmlite")

from qir.backends.xla.cpu.cover import COVERS, Cover, Region, cover
from qir.backends.xla.cpu.emitter import I8
from qir.backends.xla.cpu.kernel import Body, Kernel
from qir.backends.xla.cpu.target import Target, host_target
from qir.ir import Graph, Node
from qir.ops import Relu
from qir.types import Array, DType, Quant, TensorType
from tests.cpu import guarded, programs
from tests.strategies import STRATEGIES
from tests.strategies.base import Case

TARGET = host_target()
pytestmark = pytest.mark.skipif(TARGET is None, reason="no kernels for this machine")
ROOT = Path(__file__).parents[2]
PARTS = 3


def cases(part: int) -> Iterator[tuple[str, Graph, tuple[Array, ...]]]:
    """Draws small programs of a third of the ops that have kernels."""
    assert TARGET is not None
    for op in sorted(COVERS, key=lambda op: op.__name__)[part::PARTS]:
        drawn: list[Case] = []

        @settings(max_examples=60, phases=[Phase.generate], derandomize=True, database=None)
        @given(STRATEGIES[op])
        def collect(case: Case, drawn: list[Case] = drawn) -> None:
            drawn.append(case)

        collect()
        for case in drawn:
            if isinstance(cover(case.node, TARGET), Cover):
                yield repr(case), case.graph, case.inputs


def try_ops(part: str) -> None:
    for name, graph, inputs in cases(int(part)):
        print(name, flush=True)
        guarded.check(graph, *inputs)


def try_linear(ending: str) -> None:
    for case in programs.linear_programs():
        if case.ending == ending:
            print(case, flush=True)
            graph, inputs = case.build()
            guarded.check(graph, *inputs)


def run(function: str, argument: str) -> subprocess.CompletedProcess[str]:
    """Runs a function of this file in a process of its own."""
    code = f"from tests.cpu.test_guarded import {function}; {function}({argument!r})"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def assert_passes(done: subprocess.CompletedProcess[str]) -> None:
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"{done.returncode} at {last}: {done.stderr[-2000:]}"
    assert last


@pytest.mark.parametrize("part", range(PARTS))
def test_every_op(part: int) -> None:
    assert_passes(run("try_ops", str(part)))


@pytest.mark.parametrize("ending", programs.ENDINGS)
def test_sums_of_products(ending: str) -> None:
    assert_passes(run("try_linear", ending))


@dataclass(frozen=True)
class Astray(Kernel):
    """Copies bytes, and one that it should not.

    Attributes:
        source: Where that one is read: a name of a tensor, or scratch.
        place: Where it is written.
        before: Whether it is the one before the first, otherwise that behind the last.
    """

    source: str
    place: str
    before: bool

    words = ("size", "scratch")
    tensors = ("x", "out")

    def write(self, e: Body) -> None:
        size = e.word("size")
        tensors = {name: e.tensor(name) for name in self.tensors} | {"scratch": e.scratch}
        with e.loop(size) as loop:
            e.store(e.load(I8, tensors["x"], loop.index), tensors["out"], loop.index)

        def outside(name: str) -> object:
            behind = e.word("scratch") if name == "scratch" else size
            return e.number(-1) if self.before else behind

        byte = e.number(0, I8)
        if self.source:
            byte = e.load(I8, tensors[self.source], outside(self.source))
        if self.place:
            e.store(byte, tensors[self.place], outside(self.place))
        elif self.source:
            e.store(byte, tensors["out"])


def try_astray(arguments: str) -> None:
    source, place, before = arguments.split(",")

    def rule(op: Relu, node: Node, target: Target) -> Cover:
        def write(region: Region) -> None:
            x, out = node.inputs[0], node.output
            size = region.bytes(x)
            region.plan.step(
                "astray",
                Astray(source, place, before == "before"),
                {"size": size, "scratch": 128},
                {"x": region.read(x), "out": region.write(out)},
                scratch=64,
            )

        return Cover((node,), node.inputs, write)

    COVERS[Relu] = rule
    graph = Graph("g", [("x", TensorType((33,), Quant.of(DType.I8, 1.0)))])
    at = graph.at_end()
    graph.set_outputs([at.emit(Relu(), graph.inputs[0])])
    print("started", flush=True)
    guarded.check(graph, np.ones(33, np.int8))


def test_an_access_inside_passes() -> None:
    assert_passes(run("try_astray", ",,before"))


@pytest.mark.parametrize("before", ["before", "behind"])
@pytest.mark.parametrize(
    ("source", "place"), [("x", ""), ("out", ""), ("scratch", ""), ("", "out"), ("", "scratch")]
)
def test_an_access_outside_ends_the_process(source: str, place: str, before: str) -> None:
    done = run("try_astray", f"{source},{place},{before}")
    assert done.stdout == "started\n"
    assert done.returncode == -signal.SIGSEGV, done.stderr
