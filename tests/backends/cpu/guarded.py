"""Runs plans with an inaccessible page right before or behind every tensor, so that a touch kills.

The kernels are called one task after the other, without XLA. Each operand, result, temporary tensor
and parameter, the scratch and the arguments have memory of their own, as small as they may be; what
is only read is read-only; what is written holds noise first. A process in which this is tried is
run by the tests, because an access outside ends it.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from qir.backends.cpu import machine
from qir.backends.cpu.kernel import KernelCode
from qir.backends.cpu.kernels import kernel_code_of
from qir.backends.cpu.objects import object_codes
from qir.backends.cpu.target import LlvmInstructionSet, host_target
from qir.backends.native.assignment import write
from qir.backends.native.kernel import Kernel
from qir.backends.native.pattern import Placement
from qir.backends.native.plan import SLACK, Buffer, BufferView, Plan
from qir.backends.reference.interpreter import bind_inputs, run
from qir.ir import Graph, Value
from qir.types import Array
from tests.backends.cpu.harness import matches_of

Side: TypeAlias = Literal["before", "behind"]
SIDES: tuple[Side, ...] = ("before", "behind")

_NOISE = 0xA5
_PAGE = mmap.PAGESIZE
_NO_ACCESS, _READ_ONLY = 0, 1
_C = ctypes.CDLL(None, use_errno=True)
_CODE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


class Memory:
    """Bytes next to an inaccessible page.

    Args:
        size: How many.
        side: Where that page is.
    """

    def __init__(self, size: int, side: Side) -> None:
        self._pages = -(-size // _PAGE) * _PAGE
        self._map = mmap.mmap(-1, self._pages + 2 * _PAGE)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._offset = _PAGE if side == "before" else _PAGE + self._pages - size
        self._all = np.frombuffer(self._map, np.uint8)[_PAGE : _PAGE + self._pages]
        self._all[:] = _NOISE
        self._size = size
        self._protect(0, _PAGE, _NO_ACCESS)
        self._protect(_PAGE + self._pages, _PAGE, _NO_ACCESS)

    @property
    def address(self) -> int:
        """Where the bytes begin."""
        return self._start + self._offset

    @property
    def bytes(self) -> Array:
        """The bytes."""
        return self._all[self._offset - _PAGE :][: self._size]

    def seal(self, content: ArrayLike) -> None:
        """Fills the bytes, and makes them read-only."""
        self.bytes[:] = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
        self._protect(_PAGE, self._pages, _READ_ONLY)

    def check(self) -> None:
        """Asserts that nothing was written on the other side, where no page is right beside it."""
        first = self._offset - _PAGE
        outside = self._all[:first], self._all[first + self._size :]
        assert all((part == _NOISE).all() for part in outside), "written outside"

    def _protect(self, offset: int, size: int, access: int) -> None:
        if size and _C.mprotect(
            ctypes.c_void_p(self._start + offset), ctypes.c_size_t(size), access
        ):
            raise OSError(ctypes.get_errno(), "mprotect")


class GuardedPlan(Plan):
    """A plan that knows the exact sizes of its tensors and of the scratch of its steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.exact: dict[Buffer, int] = {}
        self.arrays: list[tuple[int, Array]] = []
        self.scratches: list[int] = []

    def constant(self, array: Array) -> BufferView:
        view = super().constant(array)
        self.arrays.append((view.offset, array))
        return view

    def temporary(self, size: int) -> BufferView:
        view = super().temporary(size)
        self.exact[view.buffer] = size
        return view

    def step(
        self,
        label: str,
        kernel: Kernel,
        parameters: Mapping[str, int],
        tensors: Mapping[str, BufferView],
        tasks: int = 1,
        scratch: int = 0,
        body: Plan | None = None,
    ) -> None:
        assert body is None, "the tensors of a body have no memory of their own"
        super().step(label, kernel, parameters, tensors, tasks, scratch)
        self.scratches.append(scratch)


@cache
def _address(kernel: KernelCode, target: LlvmInstructionSet) -> int:
    functions = (kernel, *kernel.shared)
    writers = {each.symbol: partial(each.define, target=target) for each in functions}
    return machine.link(object_codes(writers, target), target)[kernel.symbol]


@dataclass(frozen=True)
class Block:
    """Memory of its own for a tensor.

    Attributes:
        size: Its bytes.
        content: What it holds and keeps; None where kernels write it.
        result: Which value of the program it becomes, if any.
    """

    size: int
    content: Array | None = None
    result: Value | None = None


@dataclass(frozen=True)
class Work:
    """A step, with tensors in blocks.

    Attributes:
        kernel: The kernel.
        arguments: What it is called with; the numbers of buffers are those of blocks.
        tasks: Number of tasks.
        scratch: Bytes of scratch.
    """

    kernel: KernelCode
    arguments: Array
    tasks: int
    scratch: int


def laid_out(
    graph: Graph, inputs: Sequence[ArrayLike], target: LlvmInstructionSet
) -> tuple[list[Block], list[Work], Placement]:
    """Plans a program so that each tensor has memory of its own.

    Args:
        graph: The program; a pattern must match every node.
        inputs: What it is run on.
        target: The instruction set.
    """
    bound, sizes = bind_inputs(graph, inputs)
    plan = GuardedPlan(len(graph.inputs), len(graph.outputs), 3)
    views = {value: plan.operand(index) for index, value in enumerate(graph.inputs)}
    results = {value: plan.result(index) for index, value in enumerate(graph.outputs)}
    placement = Placement(plan, views | results, sizes, target)
    write(matches_of(graph, target), placement)

    blocks: dict[object, Block] = {}
    for view, array in zip(views.values(), bound.values(), strict=True):
        blocks[view.buffer] = Block(array.nbytes, array)
    for value, view in results.items():
        blocks[view.buffer] = Block(placement.bytes(value), result=value)
    blocks |= {buffer: Block(size) for buffer, size in plan.exact.items()}
    blocks |= {offset: Block(array.nbytes, array) for offset, array in plan.arrays}

    keys = list(blocks)
    steps = []
    for step, scratch in zip(plan.steps, plan.scratches, strict=True):
        numbers = list(step.parameters.values())
        for view in step.tensors.values():
            key, offset = _found(view, plan)
            numbers += [keys.index(key), offset]
        space = -(-(scratch + SLACK) // 64) * 64
        steps.append(
            Work(kernel_code_of(step.kernel), np.array(numbers, np.int64), step.tasks, space)
        )
    return list(blocks.values()), steps, placement


def compute(
    graph: Graph, inputs: Sequence[ArrayLike], side: Side, target: LlvmInstructionSet
) -> Iterator[Array]:
    """Computes a program by kernels in guarded memory.

    Args:
        graph: The program; a pattern must match every node.
        inputs: What it is run on.
        side: Where the inaccessible pages are.
        target: The instruction set.

    Yields:
        The results.
    """
    blocks, steps, placement = laid_out(graph, inputs, target)

    def filled(content: Array) -> Memory:
        found = Memory(content.nbytes, side)
        found.seal(content)
        return found

    memories = [
        Memory(block.size, side) if block.content is None else filled(block.content)
        for block in blocks
    ]
    bases = filled(np.array([memory.address for memory in memories], np.int64))
    used = [*memories, bases]
    for step in steps:
        arguments, scratch = filled(step.arguments), Memory(step.scratch, side)
        used += [arguments, scratch]
        code = _CODE(_address(step.kernel, target))
        for task in reversed(range(step.tasks)):
            code(arguments.address, bases.address, task, scratch.address)
    for each in used:
        each.check()
    found = {block.result: memory for block, memory in zip(blocks, memories, strict=True)}
    for value in graph.outputs:
        yield found[value].bytes.view(value.type.dtype.numpy).reshape(placement.shape(value))


def _found(view: BufferView, plan: GuardedPlan) -> tuple[object, int]:
    """Returns the memory of a place, and the offset in it."""
    if view.buffer.number != 0:
        return view.buffer, view.offset
    start = max(offset for offset, _ in plan.arrays if offset <= view.offset)
    return start, view.offset - start


def check(
    graph: Graph, *inputs: ArrayLike, target: LlvmInstructionSet | None = None
) -> list[Array]:
    """Asserts that a program has the reference's results and touches nothing else; returns them."""
    target = target or host_target()
    assert target is not None
    wanted = run(graph, *inputs)
    found: list[Array] = []
    for side in SIDES:
        found = list(compute(graph, inputs, side, target))
        for value, mine, want in zip(graph.outputs, found, wanted, strict=True):
            assert np.array_equal(mine, want, equal_nan=mine.dtype.kind == "f"), value.name
    return found
