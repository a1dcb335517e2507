"""Instruction sets: their code, disassembled, and all but their one instruction, executed."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import cycle

import pytest

pytest.importorskip("llvmlite")

from qir.backends.cpu import machine
from qir.backends.cpu.emitter import LlvmEmitter, LlvmValue
from qir.backends.cpu.kernel import KernelCode, SharedFunction
from qir.backends.cpu.kernels import kernel_code_of
from qir.backends.cpu.kernels.tiles import TileSums
from qir.backends.cpu.runtime import write_close, write_runtime
from qir.backends.cpu.target import (
    TARGETS,
    VARIABLE,
    LlvmInstructionSet,
    host_target,
    host_targets,
    sum_neighbours,
)
from qir.backends.native.kernels.dense import UNROLLED
from qir.errors import QirError
from qir.ir.signature import Sizes
from qir.types import DType
from tests.backends.cpu import guarded, harness
from tests.backends.cpu.programs import EPILOGUES, GEOMETRIES, drawn, linear_programs
from tests.backends.native import test_assignment

HOST = host_target()
here = pytest.mark.skipif(HOST is None, reason="no kernels for this machine")

WITH_EPILOGUES = [
    pytest.param(name, epilogue, marks=() if row % len(EPILOGUES) == column else pytest.mark.slow)
    for row, name in enumerate(TARGETS)
    for column, epilogue in enumerate(EPILOGUES)
]
"""Each instruction set with each epilogue of sums; in the fast tier, every one of both once."""

INSTRUCTIONS = {
    "avx512_vnni": "vpdpbusd",
    "avx512": "vpmaddwd",
    "avx_vnni": "vpdpbusd",
    "avx2": "vpmaddwd",
    "dotprod": "sdot",
    "i8mm": "usdot",
}
_LABEL = re.compile(r"(\.L\w+):")
_BRANCH = re.compile(r"\t(?:j[a-z]+|b(?:\.[a-z]+)?|cbn?z\t\w+,|tbn?z\t[^.]*,)\s+(\.L\w+)$")
_REGISTER = re.compile(r"%?\b[xyzqv]mm\d+|\b[qv]\d+")
_STACK = re.compile(r"\(%rsp|\[sp\b")
_CALL = re.compile(r"\t(?:callq|bl|jmp|b)\t([a-z_]\w*)")


def disassembled(function: KernelCode | SharedFunction, target: LlvmInstructionSet) -> str:
    module = machine.new_module("module", target)
    function.define(module, target)
    return machine.disassemble(module, target)


def loops(text: str) -> list[list[str]]:
    """Returns the lines from each label to each branch back to it."""
    lines = text.splitlines()
    labels: dict[str, int] = {}
    found = []
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = number
        branch = _BRANCH.match(line)
        if branch and branch[1] in labels:
            found.append(lines[labels[branch[1]] : number + 1])
    return found


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("weight_bytes", [1, 2])
def test_accumulators_of_the_largest_tile_stay_in_registers(name: str, weight_bytes: int) -> None:
    target = TARGETS[name]
    if weight_bytes == 2 and target.group != 2:
        pytest.skip("weights of 16 bits are for pairs")
    text = disassembled(TileSums(weight_bytes), target)
    dot = re.compile(rf"\b{INSTRUCTIONS[name]}\b")
    rounds = [(sum(map(bool, map(dot.search, loop))), loop) for loop in loops(text)]
    wanted = UNROLLED * target.rows * target.vectors
    assert max(count for count, _ in rounds) == wanted
    inner = min((loop for count, loop in rounds if count == wanted), key=len)
    spilled = [line for line in inner if _STACK.search(line) and _REGISTER.search(line)]
    assert spilled == []


def assert_compiles(kernel: KernelCode, target: LlvmInstructionSet) -> None:
    """Asserts that code calls what kernels share and nothing else: LLVM has words for all of it."""
    text = disassembled(kernel, target)
    own = {each.symbol for each in (kernel, *kernel.shared)}
    assert set(_CALL.findall(text)) <= own, (target.name, kernel.symbol)


@pytest.mark.parametrize(("name", "epilogue"), WITH_EPILOGUES)
def test_sums_of_products_compile(name: str, epilogue: str) -> None:
    target = TARGETS[name]
    kernels: dict[str, KernelCode] = {}
    for geometry, storage in zip(GEOMETRIES, cycle([DType.I8, DType.U8, DType.U8]), strict=False):
        graph, _ = replace(geometry, epilogue=epilogue, storage=storage).build()
        for step in harness.planned(graph, Sizes({}), target=target).plan.steps:
            kernels[step.kernel.symbol] = kernel_code_of(step.kernel)
    for kernel in kernels.values():
        assert_compiles(kernel, target)


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", TARGETS)
def test_kernels_of_every_op_compile(name: str) -> None:
    target = TARGETS[name]
    kernels = {
        step.kernel.symbol: kernel_code_of(step.kernel)
        for case in drawn(target, 52)
        for step in harness.planned(case.graph, Sizes({"B": 2}), target=target).plan.steps
    }
    assert len(kernels) > 20
    for kernel in kernels.values():
        assert_compiles(kernel, target)


@pytest.mark.parametrize("name", TARGETS)
def test_kernels_that_write_rows_apart_compile(name: str) -> None:
    target = TARGETS[name]
    graph = test_assignment.program(test_assignment.IN_PLACE, 16, 3)
    steps = harness.planned(graph, Sizes({"B": 2}), target=target).plan.steps
    for kernel in {step.kernel.symbol: kernel_code_of(step.kernel) for step in steps}.values():
        assert_compiles(kernel, target)


@pytest.mark.parametrize("name", TARGETS)
def test_the_runtime_compiles(name: str) -> None:
    target = TARGETS[name]
    module = machine.new_module("runtime", target)
    write_runtime(module, target.triple)
    write_close(module)
    text = machine.disassemble(module, target)
    assert set(_CALL.findall(text)) <= {
        "aligned_alloc",
        "free",
        "sched_yield",
        "qir_work",
        "qir_release",
        "qir_helper",
    }


def emulated(target: LlvmInstructionSet) -> LlvmInstructionSet:
    """Returns a target of this machine with another's tiles, and a dot in words of any machine."""
    assert HOST is not None

    def dot(
        e: LlvmEmitter, total: LlvmValue, activations: LlvmValue, weights: LlvmValue
    ) -> LlvmValue:
        widen = e.build.zext if target.activation == "u8" else e.build.sext
        for start in range(target.group):
            first, second = (
                e.shuffle(each, each, range(start, each.type.count, target.group))
                for each in (activations, weights)
            )
            product = e.build.mul(widen(first, total.type), e.build.sext(second, total.type))
            total = e.build.add(total, product)
        return total

    return replace(
        target,
        name=f"emulated_{target.name}",
        triple=HOST.triple,
        cpu=HOST.cpu,
        features=HOST.features,
        dot=dot,
        pairs=sum_neighbours,
    )


EMULATED = {name: emulated(target) for name, target in TARGETS.items() if HOST is not None}


@here
@pytest.mark.parametrize(("name", "epilogue"), WITH_EPILOGUES)
def test_tiles_of_other_instruction_sets(name: str, epilogue: str) -> None:
    for case in linear_programs(epilogue):
        graph, inputs = case.build()
        guarded.check(graph, *inputs, target=EMULATED[name])


@pytest.mark.hypothesis
@here
@pytest.mark.parametrize("name", TARGETS)
def test_ops_of_other_instruction_sets(name: str) -> None:
    for case in drawn(EMULATED[name], 20):
        guarded.check(case.graph, *case.inputs, target=EMULATED[name])


@here
@pytest.mark.parametrize(("name", "epilogue"), WITH_EPILOGUES)
def test_every_instruction_set_of_this_machine(name: str, epilogue: str) -> None:
    target = {each.name: each for each in host_targets()}.get(name)
    if target is None:
        pytest.skip(f"no {name} here")
    for case in linear_programs(epilogue):
        graph, inputs = case.build()
        harness.check(graph, *inputs, target=target)


@pytest.mark.parametrize("target", host_targets(), ids=lambda target: target.name)
def test_a_chosen_instruction_set(
    target: LlvmInstructionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host_target(target.name) is target
    monkeypatch.setenv(VARIABLE, target.name)
    assert host_target() is target


def test_the_best_instruction_set_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert host_target() is next(iter(host_targets()), None)


def test_an_instruction_set_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "avx1024")
    with pytest.raises(QirError, match=r"expected one of avx512_vnni, .*, got 'avx1024'; did you"):
        host_target()
    absent = next(name for name in TARGETS if name not in {each.name for each in host_targets()})
    monkeypatch.setenv(VARIABLE, absent)
    with pytest.raises(QirError, match=rf"{VARIABLE}: expected an .* of this machine .*, got"):
        host_target()


def test_a_lesser_instruction_set_has_none_of_a_better_ones_features() -> None:
    for number, target in enumerate(host_targets()):
        for better in host_targets()[:number]:
            missing = set(better.needs) - set(target.needs)
            assert {f"-{need}" for need in missing} <= set(target.features.split(","))
