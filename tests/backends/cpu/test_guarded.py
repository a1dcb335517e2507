"""Kernels touch nothing outside of their tensors: each family runs next to inaccessible pages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

pytest.importorskip("llvmlite")

from qir.backends.cpu.emitter import I8
from qir.backends.cpu.kernel import KERNEL_CODES, KernelBody, KernelCode
from qir.backends.cpu.target import LlvmInstructionSet, host_target
from qir.backends.native.pattern import PATTERNS, Match, Placement
from qir.ir import Graph, Node
from qir.ops import Relu
from qir.types import Affine, DType, TensorType
from tests.backends.cpu import guarded, harness, programs
from tests.layout import ROOT

TARGET = host_target()
pytestmark = pytest.mark.skipif(TARGET is None, reason="no kernels for this machine")


def try_ops(count: str) -> None:
    assert TARGET is not None
    for case in programs.drawn(TARGET, int(count)):
        print(case, flush=True)
        guarded.check(case.graph, *case.inputs)


def try_linear(epilogue: str) -> None:
    for case in programs.linear_programs(epilogue):
        print(case, flush=True)
        graph, inputs = case.build()
        guarded.check(graph, *inputs)


def run(function: str, argument: str) -> subprocess.CompletedProcess[str]:
    """Runs a function of this file in a process of its own."""
    profile = settings.get_current_profile_name()
    code = (
        f"from tests.backends.cpu.test_guarded import {function}, settings\n"
        f"settings.load_profile({profile!r})\n"
        f"{function}({argument!r})"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def assert_passes(done: subprocess.CompletedProcess[str]) -> None:
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"{done.returncode} at {last}: {done.stderr[-2000:]}"
    assert last


@pytest.mark.hypothesis
def test_every_op() -> None:
    assert_passes(run("try_ops", "60"))


@pytest.mark.parametrize(
    "epilogue",
    [
        pytest.param(epilogue, marks=() if epilogue in ("sum", "accumulator") else pytest.mark.slow)
        for epilogue in programs.EPILOGUES
    ],
)
def test_sums_of_products(epilogue: str) -> None:
    assert_passes(run("try_linear", epilogue))


@pytest.mark.slow
def test_the_other_tests_of_kernels() -> None:
    here = Path(__file__).parent
    files = {
        path
        for folder in (here, here.with_name("native"))
        for path in folder.glob("test_*.py")
        if "harness" in path.read_text()
    }
    # These bring memory of their own.
    own = ["test_guarded.py", "test_targets.py", "test_emulated.py", "test_memcheck.py"]
    own.append("test_loop.py")  # The tensors of a body lie in one block.
    files -= {here / name for name in own}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-m",
            "not campaign",
            f"--hypothesis-profile={settings.get_current_profile_name()}",
            *map(str, sorted(files)),
        ],
        cwd=ROOT,
        env=os.environ | {harness.GUARDED: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@dataclass(frozen=True)
class Astray(KernelCode):
    """Copies bytes, and one that it should not.

    Attributes:
        source: Where that one is read: a name of a tensor, or scratch.
        place: Where it is written.
        before: Whether it is the one before the first, otherwise that behind the last.
    """

    source: str
    place: str
    before: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        return ("size", "scratch")

    @property
    def tensors(self) -> tuple[str, ...]:
        return ("x", "out")

    def write(self, e: KernelBody) -> None:
        size = e.parameter("size")
        tensors = {name: e.tensor(name) for name in self.tensors} | {"scratch": e.scratch}
        with e.loop(size) as loop:
            e.store(e.load(I8, tensors["x"], loop.index), tensors["out"], loop.index)

        def outside(name: str) -> object:
            behind = e.parameter("scratch") if name == "scratch" else size
            return e.number(-1) if self.before else behind

        byte = e.number(0, I8)
        if self.source:
            byte = e.load(I8, tensors[self.source], outside(self.source))
        if self.place:
            e.store(byte, tensors[self.place], outside(self.place))
        elif self.source:
            e.store(byte, tensors["out"])


def try_astray(arguments: str) -> None:
    source, place, side = arguments.split(",")
    assert TARGET is not None
    assert side in guarded.SIDES

    def astray(op: Relu, node: Node, target: LlvmInstructionSet) -> Match:
        def write(placement: Placement) -> None:
            x, out = node.inputs[0], node.output
            size = placement.bytes(x)
            placement.plan.step(
                "astray",
                Astray(source, place, side == "before"),
                {"size": size, "scratch": 128},
                {"x": placement.read(x), "out": placement.write(out)},
                scratch=64,
            )

        return Match((node,), node.inputs, write)

    PATTERNS[Relu] = astray
    KERNEL_CODES[Astray] = Astray
    graph = Graph("g", [("x", TensorType((33,), Affine.of(DType.I8, 1.0)))])
    at = graph.at_end()
    graph.set_outputs([at.emit(Relu(), graph.inputs[0])])
    print("started", flush=True)
    list(guarded.compute(graph, [np.ones(33, np.int8)], side, TARGET))


def test_an_access_inside_passes() -> None:
    assert_passes(run("try_astray", ",,before"))


@pytest.mark.parametrize("side", guarded.SIDES)
@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("scratch", ""),
        ("", "out"),
        pytest.param("x", "", marks=pytest.mark.slow),
        pytest.param("", "scratch", marks=pytest.mark.slow),
    ],
)
def test_an_access_outside_ends_the_process(source: str, place: str, side: str) -> None:
    done = run("try_astray", f"{source},{place},{side}")
    assert done.stdout == "started\n"
    assert done.returncode == -signal.SIGSEGV, done.stderr
