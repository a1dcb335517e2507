"""Arm's instructions, executed by an emulator: the same integers as the reference."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import ArrayLike

pytest.importorskip("llvmlite")

from qir.backends.cpu.processor import linux_features
from qir.backends.cpu.target import TARGETS
from qir.backends.reference.interpreter import run
from qir.ir import Graph
from tests.backends.cpu import emulation
from tests.backends.cpu.programs import EPILOGUES, drawn, linear_programs
from tests.backends.native import test_assignment

Program: TypeAlias = tuple[Graph, Sequence[ArrayLike]]

pytestmark = [
    pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program}")
    for program in (emulation.EMULATOR, emulation.ASSEMBLER, emulation.LINKER)
]

# The first has sdot and not usdot; QEMU 7.2 has no other with usdot.
PROCESSORS = pytest.mark.parametrize(
    ("name", "cpu"), [("dotprod", "cortex-a76"), ("i8mm", "max")], ids=lambda each: each
)


def check(programs: Sequence[Program], name: str, cpu: str, folder: Path) -> None:
    results = emulation.compute(programs, TARGETS[name], cpu, folder)
    for (graph, inputs), found in zip(programs, results, strict=True):
        for mine, wanted in zip(found, run(graph, *inputs), strict=True):
            assert mine.dtype == wanted.dtype
            assert np.array_equal(mine, wanted, equal_nan=mine.dtype.kind == "f"), str(graph)


@PROCESSORS
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_sums_of_products(name: str, cpu: str, epilogue: str, tmp_path: Path) -> None:
    check([case.build() for case in linear_programs(epilogue)], name, cpu, tmp_path)


@pytest.mark.hypothesis
@PROCESSORS
def test_every_op(name: str, cpu: str, tmp_path: Path) -> None:
    programs: list[Program] = [(case.graph, case.inputs) for case in drawn(TARGETS[name], 80)]
    assert len(programs) > 150
    for channels in (3, 37):
        graph = test_assignment.program(test_assignment.IN_PLACE, channels, 3)
        programs.append((graph, test_assignment.inputs(channels, 2)))
    check(programs, name, cpu, tmp_path)


@pytest.mark.parametrize(
    ("cpu", "features"),
    [("cortex-a57", set()), ("cortex-a76", {"dotprod"}), ("max", {"dotprod", "i8mm"})],
)
def test_linux_tells_of_instructions(cpu: str, features: set[str], tmp_path: Path) -> None:
    found = linux_features(emulation.auxiliary_vector(cpu, tmp_path).__getitem__)
    assert {name for name, has in found.items() if has} == features
