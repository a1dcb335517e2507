"""Plans: the steps of one call, and where their tensors lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from qir.backends.native.kernel import Kernel
from qir.errors import QirError, counted
from qir.ir import Node
from qir.types import Array

RESERVED = 2**28
"""Bytes of constants that a plan takes without moving them; untouched ones need no memory."""
ALIGNMENT = 64
SLACK = 64
"""Bytes behind every temporary tensor that a vector may read, but not use."""


@dataclass(eq=False)
class Buffer:
    """Memory of a tensor: an operand or result of the call, or temporary.

    Attributes:
        size: Bytes, where it is temporary.
        number: Position among operands and results; None for a temporary one.
        first: Number of the first step that uses it; -1 before there is one.
        last: Number of the last.
        offset: Where a temporary one lies; known when the plan is finished.
    """

    size: int = 0
    number: int | None = None
    first: int = -1
    last: int = -1
    offset: int = 0


@dataclass(frozen=True)
class BufferView:
    """A tensor in a buffer, which begins at an offset in bytes."""

    buffer: Buffer
    offset: int = 0

    def further(self, size: int) -> BufferView:
        """Returns the view that begins some bytes further."""
        return BufferView(self.buffer, self.offset + size)


@dataclass(frozen=True, eq=False)
class Step:
    """One parallel part of a call.

    Attributes:
        label: What it computes, for people.
        kernel: The kernel.
        parameters: The integers that the kernel reads, by name.
        tensors: Its tensors, by name.
        tasks: Number of tasks, which may run at the same time.
        scratch: Bytes of memory that each thread needs.
        nodes: The nodes that it computes, or a part of them.
        body: The plan that it repeats, if it is a loop.
    """

    label: str
    kernel: Kernel
    parameters: Mapping[str, int]
    tensors: Mapping[str, BufferView]
    tasks: int
    scratch: int = 0
    nodes: tuple[Node, ...] = ()
    body: Plan | None = None


@dataclass(eq=False)
class Plan:
    """The steps of one call, in order.

    Args:
        operands: Number of the tensors that the call reads, constants not counted.
        results: Number of those that it returns.
        threads: Most threads that take part.
        outer: The plan that repeats this one, whose constants are those of both.

    Attributes:
        steps: The steps.
        scratch: Bytes of memory that each thread has, for the step that needs most.
        nodes: The nodes that the next steps compute.
        constant_bytes: Size of the constants.
    """

    operands: int
    results: int
    threads: int
    outer: Plan | None = None
    steps: list[Step] = field(default_factory=list)
    scratch: int = 0
    nodes: tuple[Node, ...] = ()
    constant_bytes: int = 0

    def __post_init__(self) -> None:
        # Buffer 0 holds the constants, one after the other.
        self.fixed = [Buffer(number=number) for number in range(1 + self.operands + self.results)]
        self._temporary: list[Buffer] = []
        if self.outer is None:
            self._constants = _aligned_zeros(RESERVED)

    def operand(self, index: int) -> BufferView:
        """Returns where an operand lies."""
        return BufferView(self.fixed[1 + index])

    def result(self, index: int) -> BufferView:
        """Returns where a result lies."""
        return BufferView(self.fixed[1 + self.operands + index])

    def constant(self, array: Array) -> BufferView:
        """Adds a copy of an array to the constants."""
        if self.outer is not None:
            return BufferView(self.fixed[0], self.outer.constant(array).offset)
        at = self.constant_bytes
        self.constant_bytes += aligned(array.nbytes)
        if self.constant_bytes > self._constants.size:
            larger = _aligned_zeros(2 * self.constant_bytes)
            larger[:at] = self._constants[:at]
            self._constants = larger
        self._constants[at : at + array.nbytes].view(array.dtype)[:] = array.reshape(-1)
        return BufferView(self.fixed[0], at)

    def all_constants(self) -> BufferView:
        """Returns where the constants begin."""
        return BufferView(self.fixed[0])

    def temporary(self, size: int) -> BufferView:
        """Returns memory that holds a tensor from the first step that names it to the last."""
        buffer = Buffer(size=aligned(size + SLACK))
        self._temporary.append(buffer)
        return BufferView(buffer)

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
        """Adds a step.

        Args:
            label: What it computes, for people.
            kernel: The kernel.
            parameters: An integer for each name of `kernel.parameters`.
            tensors: A view for each name of `kernel.tensors`.
            tasks: Number of tasks, which may run at the same time.
            scratch: Bytes of memory that each thread needs.
            body: The plan that it repeats, if it is a loop.

        Raises:
            QirError: A parameter or tensor is missing, or is none that the kernel knows.
        """
        _check_names(label, kernel, "parameters", parameters, kernel.parameters)
        _check_names(label, kernel, "tensors", tensors, kernel.tensors)
        number = len(self.steps)
        for view in tensors.values():
            buffer = view.buffer
            buffer.first = number if buffer.first < 0 else buffer.first
            buffer.last = number
        ordered = {name: int(parameters[name]) for name in kernel.parameters}
        views = {name: tensors[name] for name in kernel.tensors}
        self.steps.append(Step(label, kernel, ordered, views, tasks, scratch, self.nodes, body))
        self.scratch = max(self.scratch, aligned(scratch + SLACK))

    def kernels(self) -> Iterator[Kernel]:
        """Yields the kernel of each step, those inside of loops included."""
        for step in self.steps:
            yield step.kernel
            if step.body is not None:
                yield from step.body.kernels()

    def constants(self) -> Array:
        """Returns the constants as the bytes of buffer 0, aligned so that JAX takes no copy."""
        return self._constants[: max(self.constant_bytes, ALIGNMENT)]

    def arena(self) -> int:
        """Places the temporary tensors and returns how many bytes they need.

        The largest come first, each at the lowest offset at which it meets no other that lives at
        the same time (Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net
        Inference, 2020).
        """
        placed: list[Buffer] = []
        used = [buffer for buffer in self._temporary if buffer.first >= 0]
        for buffer in sorted(used, key=lambda buffer: -buffer.size):
            near = sorted(
                (
                    other
                    for other in placed
                    if other.first <= buffer.last and buffer.first <= other.last
                ),
                key=lambda other: other.offset,
            )
            at = 0
            for other in near:
                if at + buffer.size <= other.offset:
                    break
                at = max(at, other.offset + other.size)
            buffer.offset = at
            placed.append(buffer)
        return max((buffer.offset + buffer.size for buffer in placed), default=0)

    def __str__(self) -> str:
        arena = self.arena()
        lines = [
            f"{counted(len(self.steps), 'step')}, {counted(self.threads, 'thread')}; bytes: "
            f"{self.constant_bytes:,} of constants, {arena:,} of temporary tensors, "
            f"{self.scratch:,} of scratch a thread"
        ]
        for number, step in enumerate(self.steps):
            tensors = ", ".join(f"{name}={self._shown(at)}" for name, at in step.tensors.items())
            nodes = ", ".join(map(named, step.nodes))
            lines += [
                f"{number:4d}  {nodes or step.label}: {step.kernel.symbol}",
                f"      {counted(step.tasks, 'task')}, {step.scratch:,} bytes of scratch; "
                f"{tensors}",
            ]
            if step.body is not None:
                lines += [f"      {line}" for line in str(step.body).splitlines()]
        return "\n".join(lines)

    def _shown(self, view: BufferView) -> str:
        """Returns where a tensor lies, for people; of a temporary one also where it ends."""
        buffer = view.buffer
        further = f"+{view.offset}" if view.offset else ""
        if buffer.number is None:
            return f"temporary[{buffer.offset}:{buffer.offset + buffer.size}]{further}"
        if buffer.number == 0:
            return f"constants+{view.offset}"
        index = buffer.number - 1
        if index < self.operands:
            return f"operand{index}{further}"
        return f"result{index - self.operands}{further}"


def named(node: Node) -> str:
    """Returns a node's op with the names of its results."""
    values = ", ".join(f"%{value.name}" for value in node.outputs)
    return f"{node.op.name} {values}"


def _check_names(
    label: str, kernel: Kernel, kind: str, given: Iterable[str], known: Iterable[str]
) -> None:
    missing, unknown = sorted({*known} - {*given}), sorted({*given} - {*known})
    if missing or unknown:
        problems = [f"no {', '.join(missing)}"] * bool(missing)
        problems += [f"also {', '.join(unknown)}"] * bool(unknown)
        raise QirError(
            f"plan: step {label}: expected the {kind} of {kernel.name}, got "
            f"{' and '.join(problems)}"
        )


def aligned(size: int) -> int:
    """Returns a size rounded up to the alignment of tensors."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _aligned_zeros(size: int) -> Array:
    space = np.zeros(size + ALIGNMENT, np.uint8)
    return space[-space.ctypes.data % ALIGNMENT :][:size]
