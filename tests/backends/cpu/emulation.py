"""Runs plans on an Arm processor that QEMU emulates, as a program without a C library.

The program reads an image of its memory, turns what the image names into addresses, has the handler
run every plan as XLA would with one thread, and writes the memory back.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from llvmlite import ir
from numpy.typing import ArrayLike

from qir.backends.cpu import machine, runtime
from qir.backends.cpu.emitter import I8, I32, I64, POINTER, VOID, LlvmEmitter, LlvmValue
from qir.backends.cpu.kernel import KernelCode, SharedFunction
from qir.backends.cpu.kernels import kernel_code_of
from qir.backends.cpu.objects import object_codes
from qir.backends.cpu.table import call_table
from qir.backends.cpu.target import LlvmInstructionSet
from qir.backends.native.pattern import Placement
from qir.backends.reference.interpreter import bind_inputs
from qir.ir import Graph
from qir.types import Array
from tests.backends.cpu.harness import planned

ASSEMBLER, LINKER = "aarch64-linux-gnu-as", "aarch64-linux-gnu-ld"
EMULATOR = "qemu-aarch64"
SYSTEM = """
.global system
system:
    mov x8, x0
    mov x0, x1
    mov x1, x2
    mov x2, x3
    svc #0
    ret
"""
"""Calls Linux; LLVM has no parser of Arm's assembly where it runs on another machine."""

_READ, _WRITE, _EXIT = 63, 64, 93
_MEMORY_BYTES = 2**27
_WORKSPACE_BYTES = 2**25
_THREADS = 3
_EXECUTE = 3
_INTERFACE_WORDS = 32
"""Of XLA, with which one thread does nothing but look for how to ask for more."""
_NOISE = 0xA5
_LISTS = 3

STACK = """
.global _start
_start:
    mov x19, sp
again:
    mov x0, #1
    mov x1, x19
    mov x2, #8
    mov x8, #64
    svc #0
    add x19, x19, #8
    cmp x0, #8
    b.eq again
    mov x0, #0
    mov x8, #93
    svc #0
"""
"""Writes the stack that a program starts with, word by word, up to its end."""


@dataclass
class Image:
    """Memory of the program, with noise between the tensors.

    Attributes:
        pointers: Offsets of words that hold offsets; they become addresses.
        codes: Offsets of words that hold the number of a kernel; they become its address.
        frames: Offsets of what the handler is called with, one after the other.
        written: Offset and size of what the program may change.
    """

    pointers: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    written: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._parts: list[Array] = []
        self._size = 0
        self.put(np.zeros(1 + 2 * _LISTS, np.int64))

    def put(self, content: ArrayLike) -> int:
        """Adds an array, and returns its offset."""
        array = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
        noise = np.full(64 + -array.size % 64, _NOISE, np.uint8)
        self._parts += [array, noise]
        offset, self._size = self._size, self._size + array.size + noise.size
        return offset

    def words(self, numbers: Sequence[int], pointers: Sequence[int]) -> int:
        """Adds words, those at some places being addresses, and returns their offset."""
        offset = self.put(np.array(numbers, np.int64))
        self.pointers += [offset + 8 * place for place in pointers]
        return offset

    def buffers(self, offsets: Sequence[int]) -> int:
        """Adds what XLA describes tensors by, and returns the offset of the list of them."""
        each = [self.words([0, 0, 0, offset, 0, 0], [3]) for offset in offsets]
        return self.words(each, range(len(each)))

    def call(self, operands: Sequence[int], results: Sequence[int]) -> None:
        """Adds a call of the handler, with tensors at some offsets."""
        interface = self.words([0] * _INTERFACE_WORDS, [])
        frame = [0, 0, interface, 0, _EXECUTE, 0, 0, len(operands), 0, self.buffers(operands)]
        frame += [0, 0, len(results), 0, self.buffers(results)]
        self.frames.append(self.words(frame, [2, 9, 14]))

    def finish(self) -> Array:
        """Returns all bytes; first stand their number, and the size and offset of each list."""
        found = [
            (len(words), self.put(words)) for words in (self.pointers, self.codes, self.frames)
        ]
        whole = np.concatenate(self._parts)
        whole[: 8 + 16 * _LISTS].view(np.int64)[:] = [whole.size, *np.ravel(found)]
        return whole


def compute(
    programs: Sequence[tuple[Graph, Sequence[ArrayLike]]],
    target: LlvmInstructionSet,
    cpu: str,
    folder: Path,
) -> Iterator[list[Array]]:
    """Computes programs by kernels alone.

    Args:
        programs: Programs with what they are run on; a pattern must match every node.
        target: The instruction set.
        cpu: What QEMU calls the processor.
        folder: Where to put files.

    Yields:
        The results of each.
    """
    image, numbers = Image(), dict[str, int]()
    functions: dict[str, KernelCode | SharedFunction] = {}
    found = []
    for graph, inputs in programs:
        bound, sizes = bind_inputs(graph, inputs)
        placement = planned(graph, sizes, _THREADS, target)
        for step in placement.plan.steps:
            numbers.setdefault(step.kernel.symbol, len(numbers))
            kernel = kernel_code_of(step.kernel)
            functions |= {each.symbol: each for each in (kernel, *kernel.shared)}
        found.append(
            (graph, placement, _add(image, graph, placement, list(bound.values()), numbers))
        )
    writers = {name: partial(each.define, target=target) for name, each in functions.items()}
    writers[runtime.HANDLER] = partial(runtime.write_runtime, triple=target.triple)
    start = machine.new_module("start", target)
    _write_start(start, list(numbers))
    codes = [*object_codes(writers, target).values(), machine.assemble(str(start), target)]

    before = image.finish()
    after = _run(codes, before, cpu, folder)
    same = before == after
    addresses = ((offset, 8) for offset in (*image.pointers, *image.codes))
    for offset, size in (*image.written, *addresses):
        same[offset : offset + size] = True
    assert same.all(), f"written outside, at {np.flatnonzero(~same)[:9]}"
    for graph, placement, offsets in found:
        yield [
            after[offset : offset + placement.bytes(value)]
            .view(value.type.dtype.numpy)
            .reshape(placement.shape(value))
            for value, offset in zip(graph.outputs, offsets, strict=True)
        ]


def _add(
    image: Image,
    graph: Graph,
    placement: Placement,
    operands: Sequence[Array],
    numbers: Mapping[str, int],
) -> list[int]:
    """Adds a call of the handler to an image, and returns the offsets of its results."""
    plan = placement.plan
    slot = image.words([0, 0], [])
    words = call_table(plan, numbers, slot).view(np.int64)
    words[runtime.THREADS] = 1
    table = image.put(words)
    image.pointers.append(table + 8 * runtime.SLOT)
    image.codes += [
        table + 8 * (runtime.TABLE_WORDS + runtime.STEP_WORDS * number + runtime.CODE)
        for number in range(len(plan.steps))
    ]
    sizes = [placement.bytes(value) for value in graph.outputs]
    results = [image.put(np.full(size, _NOISE, np.uint8)) for size in sizes]
    image.call([table, image.put(plan.constants()), *map(image.put, operands)], results)
    image.written += [(slot, 8), *zip(results, sizes, strict=True)]
    return results


def auxiliary_vector(cpu: str, folder: Path) -> dict[int, int]:
    """Returns what Linux tells a program of its processor, by the number of the entry."""
    for command in ([ASSEMBLER, "-o", "stack.o"], [LINKER, "-o", "stack", "stack.o"]):
        subprocess.run(command, cwd=folder, input=STACK.encode(), check=True)
    command = [EMULATOR, "-cpu", cpu, "./stack"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    words = np.frombuffer(done.stdout, np.uint64).tolist()
    # The number of arguments, these and the environment, each with a zero behind.
    start = words.index(0, words.index(0) + 1) + 1
    return dict(zip(words[start::2], words[start + 1 :: 2], strict=False))


def _run(codes: Sequence[bytes], image: Array, cpu: str, folder: Path) -> Array:
    """Links a program, and returns what its memory is after it ran."""
    names = [f"{number}.o" for number in range(len(codes))]
    for name, code in zip(names, codes, strict=True):
        (folder / name).write_bytes(code)
    for command in ([ASSEMBLER, "-o", "system.o"], [LINKER, "-o", "program", "system.o", *names]):
        subprocess.run(command, cwd=folder, input=SYSTEM.encode(), check=True)
    done = subprocess.run(
        [EMULATOR, "-cpu", cpu, "./program"],
        cwd=folder,
        input=image.tobytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return np.frombuffer(done.stdout, np.uint8)


def _write_start(module: ir.Module, symbols: Sequence[str]) -> None:
    """Writes what starts, and what the runtime calls of the C library."""
    _write_library(module)
    e = _function(module, "_start", VOID, [])
    build, number = e.build, e.number
    memory = _space(e, "memory", _MEMORY_BYTES)
    _transfer(e, _READ, 0, memory, number(_MEMORY_BYTES))
    size, *lists = (e.load(I64, memory, 8 * index, 8) for index in range(1 + 2 * _LISTS))

    @contextmanager
    def each_offset(index: int) -> Generator[LlvmValue]:
        offsets = e.at(memory, lists[2 * index + 1])
        with e.loop(lists[2 * index]) as loop:
            offset = e.load(I64, offsets, build.mul(loop.index, number(8)), 8)
            yield e.at(memory, offset)

    with each_offset(0) as word:
        e.store(e.at(memory, e.load(I64, word, 0, 8)), word, 0, 8)
    type = ir.ArrayType(POINTER, len(symbols))
    kernels = [ir.Function(module, runtime.KERNEL_TYPE, symbol) for symbol in symbols]
    table: LlvmValue = ir.GlobalVariable(module, type, "kernels")
    table.linkage, table.initializer = "internal", ir.Constant(type, kernels)
    with each_offset(1) as word:
        place = build.mul(e.load(I64, word, 0, 8), number(8))
        e.store(e.load(POINTER, e.untyped(table), place, 8), word, 0, 8)
    with each_offset(2) as frame:
        e.intrinsic(runtime.HANDLER, POINTER, frame)
    _transfer(e, _WRITE, 1, memory, size)
    _system(e, _EXIT, number(0))
    build.unreachable()


def _write_library(module: ir.Module) -> None:
    # Calls come one after the other: each finds what the one before left in its workspace.
    e = _function(module, "aligned_alloc", POINTER, [I64, I64])
    fits = e.build.icmp_unsigned("<=", e.arguments[1], e.number(_WORKSPACE_BYTES))
    space = _space(e, "workspace", _WORKSPACE_BYTES)
    e.build.ret(e.build.select(fits, space, ir.Constant(POINTER, None)))
    _function(module, "free", VOID, [POINTER]).build.ret_void()
    e = _function(module, "sched_yield", I32, [])
    e.build.ret(e.number(0, I32))


def _function(
    module: ir.Module, name: str, result: LlvmValue, types: Sequence[LlvmValue]
) -> LlvmEmitter:
    return LlvmEmitter(ir.Function(module, ir.FunctionType(result, types), name))


def _space(e: LlvmEmitter, name: str, size: int) -> LlvmValue:
    space: LlvmValue = ir.GlobalVariable(e.module, ir.ArrayType(I8, size), name)
    space.linkage, space.align = "internal", 4096
    space.initializer = ir.Constant(space.value_type, None)
    return e.untyped(space)


def _transfer(e: LlvmEmitter, call: int, file: int, memory: LlvmValue, size: LlvmValue) -> None:
    """Reads or writes until there is no more."""
    build, number = e.build, e.number
    done = e.reserve(8, 8)
    e.store(number(0), done, 0, 8)
    again, after = (e.function.append_basic_block(name) for name in ("again", "after"))
    build.branch(again)
    build.position_at_end(again)
    before = e.load(I64, done, 0, 8)
    start = build.ptrtoint(e.at(memory, before), I64)
    count = _system(e, call, number(file), start, build.sub(size, before))
    e.store(build.add(before, count), done, 0, 8)
    build.cbranch(build.icmp_signed(">", count, number(0)), again, after)
    build.position_at_end(after)


def _system(e: LlvmEmitter, call: int, *arguments: LlvmValue) -> LlvmValue:
    """Calls Linux."""
    padded = [e.number(call), *arguments, *[e.number(0)] * (3 - len(arguments))]
    return e.intrinsic("system", I64, *padded)
