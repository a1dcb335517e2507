"""The code of kernels: a function for one kind of step, specialised to the kernel's fields."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from llvmlite import ir

from qir.backends.cpu.emitter import I64, POINTER, LlvmEmitter, LlvmValue, vector
from qir.backends.cpu.runtime import KERNEL_TYPE
from qir.backends.cpu.target import LlvmInstructionSet
from qir.backends.native.kernel import Kernel


class KernelBody(LlvmEmitter):
    """The body of a kernel: an emitter that knows the arguments of the step.

    A step has one integer of 64 bits for each name in `parameters`, then two for each in
    `tensors`: the number of a buffer and an offset in it.

    Args:
        function: The kernel's function.
        kernel: The kernel.
        target: The instruction set.

    Attributes:
        task: Number of the task.
        scratch: Memory of the thread; what it holds before is undefined.
        target: The instruction set.
    """

    def __init__(self, function: ir.Function, kernel: Kernel, target: LlvmInstructionSet) -> None:
        super().__init__(function)
        self._arguments, self._buffers, self.task, self.scratch = self.arguments
        self._kernel = kernel
        self._repeated: dict[tuple[str, Any, int], LlvmValue] = {}
        self.target = target

    def parameter(self, name: str, type: Any = I64) -> LlvmValue:
        """Loads a parameter of the step."""
        return self.load(type, self._arguments, 8 * self._kernel.parameters.index(name), align=8)

    def repeated(self, name: str, type: Any, lanes: int) -> LlvmValue:
        """Returns the low bits of a parameter of the step in every lane.

        They are repeated once, at the entry, and stay in memory: registers are few, and an
        instruction reads memory as well.

        Args:
            name: The parameter.
            type: An integer type.
            lanes: Number of lanes.
        """
        whole = vector(type, lanes)
        if (name, type, lanes) not in self._repeated:
            with self.at_entry():
                place = self.untyped(self.build.alloca(whole))
                self.store(self.splat(self.parameter(name, type), lanes), place, 0, 16)
            self._repeated[name, type, lanes] = place
        return self.load(whole, self._repeated[name, type, lanes], 0, 16)

    def tensor(self, name: str) -> LlvmValue:
        """Returns a pointer to a tensor of the step."""
        place = 8 * (len(self._kernel.parameters) + 2 * self._kernel.tensors.index(name))
        buffer = self.load(I64, self._arguments, place, align=8)
        base = self.load(POINTER, self._buffers, self.build.mul(buffer, self.number(8)), align=8)
        return self.at(base, self.load(I64, self._arguments, place + 8, align=8))


class SharedFunction(Protocol):
    """A function of several kernels, whose code is made once."""

    @property
    def symbol(self) -> str:
        """Its name, the same for equal functions only."""
        ...

    def define(self, module: ir.Module, target: LlvmInstructionSet) -> None:
        """Writes it into a module."""
        ...


class KernelCode(Kernel):
    """The code of a kernel, with the kernel's own fields; its class is named like the kernel's."""

    @property
    def name(self) -> str:
        """Name of the kernel, for people."""
        return type(self).__name__.removesuffix("Code")

    @property
    def shared(self) -> tuple[SharedFunction, ...]:
        """The functions that it calls and declares as external."""
        return ()

    @abstractmethod
    def write(self, e: KernelBody) -> None:
        """Writes the body, up to its return."""

    def define(self, module: ir.Module, target: LlvmInstructionSet) -> None:
        """Writes the function into a module."""
        body = KernelBody(ir.Function(module, KERNEL_TYPE, self.symbol), self, target)
        self.write(body)
        body.build.ret_void()


KERNEL_CODES: dict[type[Kernel], type[KernelCode]] = {}
"""The code of each kernel; `kernels` fills it."""
CodeT = TypeVar("CodeT", bound=type[KernelCode])


def kernel_code(kernel: type[Kernel]) -> Callable[[CodeT], CodeT]:
    """Declares the code of a kernel.

    Args:
        kernel: The class of the kernel; the code derives from it.
    """

    def declare(cls: CodeT) -> CodeT:
        KERNEL_CODES[kernel] = cls
        return cls

    return declare
