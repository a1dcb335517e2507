"""Writes LLVM IR: vectors, loops and branches over llvmlite's builder."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from llvmlite import ir

LlvmValue: TypeAlias = Any
"""A value of LLVM IR; llvmlite has no types."""

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
POINTER = ir.PointerType()
VOID = ir.VoidType()


def vector(element: Any, lanes: int) -> Any:
    """Returns the type of a vector."""
    return ir.VectorType(element, lanes)


def constant(type: Any, value: Any) -> LlvmValue:
    """Returns a constant; a number is repeated in every lane of a vector."""
    if isinstance(type, ir.VectorType) and not isinstance(value, list | tuple):
        value = [value] * type.count
    return ir.Constant(type, value)


@dataclass
class Loop:
    """A counted loop under construction.

    Attributes:
        index: The counter.
        values: What is carried from one round to the next: inside the loop as it is in this round,
            and behind it as the last round left it.
    """

    index: LlvmValue
    values: list[LlvmValue]
    following: list[LlvmValue] | None = None

    def carry(self, *values: LlvmValue) -> None:
        """Says what the next round starts with."""
        self.following = list(values)


class LlvmEmitter:
    """Writes the body of one function.

    Args:
        function: The function; its arguments have names.

    Attributes:
        build: llvmlite's builder, for what has no word here.
        arguments: The arguments of the function.
    """

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.module: ir.Module = function.module
        self._entry = function.append_basic_block("entry")
        self.build = ir.IRBuilder(self._entry)
        self.arguments: tuple[LlvmValue, ...] = function.args

    def number(self, value: int, type: Any = I64) -> LlvmValue:
        """Returns an integer constant."""
        return constant(type, value)

    def at(self, pointer: LlvmValue, offset: LlvmValue | int) -> LlvmValue:
        """Returns a pointer some bytes further."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = self.number(offset)
        return self.build.gep(pointer, [offset], source_etype=I8)

    def load(
        self, type: Any, pointer: LlvmValue, offset: LlvmValue | int = 0, align: int = 1
    ) -> LlvmValue:
        """Loads a value, `align` bytes aligned."""
        return self.build.load(self.at(pointer, offset), typ=type, align=align)

    def store(
        self, value: LlvmValue, pointer: LlvmValue, offset: LlvmValue | int = 0, align: int = 1
    ) -> None:
        """Stores a value, `align` bytes aligned."""
        self.build.store(value, self.at(pointer, offset), align=align)

    def gather(self, type: Any, pointer: LlvmValue, offsets: LlvmValue) -> LlvmValue:
        """Loads the lanes of a vector, each some bytes behind a pointer."""
        places = self.build.gep(pointer, [offsets], source_etype=I8)
        # llvmlite takes it for a single pointer.
        places.type = vector(POINTER, type.count)
        element = {I32: "i32", F32: "f32"}[type.element]
        name = f"llvm.masked.gather.v{type.count}{element}.v{type.count}p0"
        mask, none = constant(vector(I1, type.count), 1), constant(type, 0)
        return self.intrinsic(name, type, places, constant(I32, 1), mask, none)

    def prefetch(self, pointer: LlvmValue, offset: LlvmValue | int = 0) -> None:
        """Asks for a line of memory that will be read; it need not be there."""
        options = (constant(I32, option) for option in (0, 3, 1))  # to read, often, as data
        self.intrinsic("llvm.prefetch.p0", VOID, self.at(pointer, offset), *options)

    def reserve(self, size: int, align: int = 64) -> LlvmValue:
        """Returns a pointer to bytes on the stack of the function."""
        with self.at_entry():
            space: LlvmValue = self.build.alloca(ir.ArrayType(I8, size))
            space.align = align
            return self.untyped(space)

    @contextmanager
    def at_entry(self) -> Generator[None]:
        """Writes at the very beginning of the function, before all that was written there."""
        with self.build.goto_block(self._entry):
            if self._entry.instructions:
                self.build.position_before(self._entry.instructions[0])
            yield

    def untyped(self, pointer: LlvmValue) -> LlvmValue:
        """Returns a pointer that llvmlite takes to be of a type, as one of none."""
        cast = ir.instructions.CastInstr(self.build.block, "bitcast", pointer, POINTER)
        self.build._insert(cast)
        return cast

    def opaque(self, address: LlvmValue) -> LlvmValue:
        """Returns an address of which LLVM doesn't know how to compute it from another.

        It would do so in every round of a loop, to save a register.
        """
        type = ir.FunctionType(address.type, [address.type])
        return self.build.asm(type, "", "=r,0", [address], side_effect=False)

    def splat(self, value: LlvmValue, lanes: int) -> LlvmValue:
        """Repeats a scalar in every lane."""
        type = vector(value.type, lanes)
        first = self.build.insert_element(ir.Constant(type, ir.Undefined), value, constant(I32, 0))
        return self.build.shuffle_vector(
            first, ir.Constant(type, ir.Undefined), constant(vector(I32, lanes), 0)
        )

    def shuffle(self, first: LlvmValue, second: LlvmValue, lanes: Sequence[int]) -> LlvmValue:
        """Picks lanes of two vectors, those of the second counted after those of the first."""
        return self.build.shuffle_vector(
            first, second, ir.Constant(vector(I32, len(lanes)), list(lanes))
        )

    def concat(self, first: LlvmValue, second: LlvmValue) -> LlvmValue:
        """Returns the lanes of two vectors of one type."""
        return self.shuffle(first, second, range(2 * first.type.count))

    def half(self, value: LlvmValue, which: int) -> LlvmValue:
        """Returns the lower (0) or upper (1) half of the lanes."""
        count = value.type.count // 2
        return self.shuffle(value, value, range(which * count, (which + 1) * count))

    def intrinsic(self, name: str, result: Any, *operands: LlvmValue) -> LlvmValue:
        """Calls an intrinsic of LLVM or a function of the process."""
        return self.build.call(
            self.external(name, result, [each.type for each in operands]), operands
        )

    def external(self, name: str, result: Any, types: Sequence[Any]) -> ir.Function:
        """Declares a function, once."""
        if name in self.module.globals:
            return self.module.globals[name]
        return ir.Function(self.module, ir.FunctionType(result, list(types)), name)

    def smallest(self, x: LlvmValue, y: LlvmValue) -> LlvmValue:
        """Returns the lesser of two signed integers, lane by lane."""
        return self.build.select(self.build.icmp_signed("<", x, y), x, y)

    def greatest(self, x: LlvmValue, y: LlvmValue) -> LlvmValue:
        """Returns the greater of two signed integers, lane by lane."""
        return self.build.select(self.build.icmp_signed(">", x, y), x, y)

    @contextmanager
    def loop(
        self,
        stop: LlvmValue | int,
        *,
        start: LlvmValue | int = 0,
        step: int = 1,
        carried: Sequence[LlvmValue] = (),
    ) -> Generator[Loop]:
        """Repeats the body for start, start + step, … below stop, perhaps not once.

        Args:
            stop: Where the counter ends.
            start: Where it begins.
            step: What it grows by.
            carried: What the first round starts with, beside the counter; the body calls `carry`.
        """
        build = self.build
        first = self.number(start) if isinstance(start, int) else start
        last = self.number(stop) if isinstance(stop, int) else stop
        head = self.function.append_basic_block("head")
        body = self.function.append_basic_block("body")
        done = self.function.append_basic_block("done")
        before = build.block
        build.branch(head)
        build.position_at_end(head)
        index = build.phi(I64)
        values = [build.phi(value.type) for value in carried]
        for phi, value in zip([index, *values], [first, *carried], strict=True):
            phi.add_incoming(value, before)
        build.cbranch(build.icmp_signed("<", index, last), body, done)
        build.position_at_end(body)
        loop = Loop(index, list(values))
        yield loop
        following = loop.following if loop.following is not None else list(values)
        after = build.block
        growing = build.add(index, self.number(step))
        build.branch(head)
        for phi, value in zip([index, *values], [growing, *following], strict=True):
            phi.add_incoming(value, after)
        build.position_at_end(done)

    @contextmanager
    def when(self, condition: LlvmValue) -> Generator[None]:
        """Runs the body where a condition holds."""
        with self.build.if_then(condition):
            yield

    @contextmanager
    def otherwise(self, condition: LlvmValue) -> Generator[tuple[Any, Any]]:
        """Runs one of two bodies: `with emitter.otherwise(c) as (then, other)`."""
        with self.build.if_else(condition) as bodies:
            yield bodies
