"""Instruction sets: how products of bytes are summed, and how many registers there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

from llvmlite import binding as llvm

from qir.backends.cpu.emitter import I8, I16, I32, LlvmEmitter, LlvmValue, constant, vector
from qir.backends.cpu.processor import host_features
from qir.backends.native.instruction_set import InstructionSet
from qir.errors import QirError, did_you_mean

VARIABLE = "QIR_INSTRUCTION_SET"
"""The environment variable that names an instruction set to use in place of the best one."""

WriteDot: TypeAlias = Callable[[LlvmEmitter, LlvmValue, LlvmValue, LlvmValue], LlvmValue]
"""Adds to each lane of a total the products of neighbours: (e, total, activations, weights)."""


@dataclass(frozen=True)
class LlvmInstructionSet(InstructionSet):
    """An instruction set as LLVM generates code for it.

    Attributes:
        triple: LLVM's name of the platform.
        cpu: LLVM's name of the processor, for scheduling.
        features: LLVM's features beyond those of the processor, as a comma-separated list.
        needs: The features that a machine must have.
        dot: Writes the dot instruction.
        pairs: Writes the sum of products of neighbouring int16.
    """

    triple: str
    cpu: str
    features: str
    needs: tuple[str, ...]
    dot: WriteDot
    pairs: WriteDot

    def converted(self, e: LlvmEmitter, stored: LlvmValue, unsigned: bool) -> LlvmValue:
        """Turns stored bytes into activations.

        Args:
            e: Where to write.
            stored: A byte, or a vector of bytes.
            unsigned: Whether they are unsigned.
        """
        lanes = getattr(stored.type, "count", 0)
        if self.activation == "s16":
            wide = vector(I16, lanes) if lanes else I16
            return e.build.zext(stored, wide) if unsigned else e.build.sext(stored, wide)
        if self.shift(unsigned) == 0:
            return stored
        return e.build.xor(stored, constant(stored.type, -128))

    def weights(self, e: LlvmEmitter, pointer: LlvmValue, offset: int) -> LlvmValue:
        """Loads the weights of one group for a vector of columns."""
        loaded = e.load(vector(I8, self.lanes * self.group), pointer, offset, align=16)
        return e.build.sext(loaded, vector(I16, self.lanes * 2)) if self.group == 2 else loaded

    def wide_weights(self, e: LlvmEmitter, pointer: LlvmValue, offset: int) -> LlvmValue:
        """Loads weights of 16 bits, where the dot instruction reads pairs of such numbers."""
        return e.load(vector(I16, self.lanes * 2), pointer, offset, align=16)

    def activations(self, e: LlvmEmitter, pointer: LlvmValue, offset: int) -> LlvmValue:
        """Loads one group of activations into all lanes."""
        repeated = e.splat(e.load(I32, pointer, offset, align=4), self.lanes)
        element = I16 if self.activation == "s16" else I8
        return e.build.bitcast(repeated, vector(element, self.lanes * self.group))

    def sum_pairs(
        self, e: LlvmEmitter, total: LlvmValue, first: LlvmValue, second: LlvmValue
    ) -> LlvmValue:
        """Adds to each lane of a total the products of two signed 16-bit numbers with two others.

        Args:
            e: Where to write.
            total: Vector of int32; None for zero.
            first: Vector of twice as many int16.
            second: Another.
        """
        if total is None:
            total = constant(vector(I32, first.type.count // 2), 0)
        write = self.pairs if total.type.count <= self.lanes else sum_neighbours
        return write(e, total, first, second)

    @property
    def permutes_bytes(self) -> bool:
        """Whether an instruction picks bytes from anywhere in two vectors."""
        return {"+avx512vbmi", "+avx512vl"} <= {*self.features.split(",")}

    def permuted(
        self, e: LlvmEmitter, first: LlvmValue, second: LlvmValue, indices: LlvmValue
    ) -> LlvmValue:
        """Picks bytes of two vectors of 32 by the six low bits of indices.

        Args:
            e: Where to write.
            first: The bytes with indices below 32.
            second: The others.
            indices: Vector of 32 bytes.
        """
        name = "llvm.x86.avx512.vpermi2var.qi.256"
        return e.intrinsic(name, first.type, first, indices, second)

    def pick(self, e: LlvmEmitter, entries: LlvmValue, indices: LlvmValue) -> LlvmValue:
        """Picks bytes by indices below 16, within each 16 bytes of a vector.

        Args:
            e: Where to write.
            entries: Vector of 32 bytes.
            indices: Another.
        """
        if self.triple.startswith("x86_64"):
            return e.intrinsic("llvm.x86.avx2.pshuf.b", entries.type, entries, indices)
        name, half = "llvm.aarch64.neon.tbl1.v16i8", vector(I8, 16)
        picked = (
            e.intrinsic(name, half, e.half(entries, which), e.half(indices, which))
            for which in range(2)
        )
        return e.concat(*picked)


def sum_neighbours(
    e: LlvmEmitter, total: LlvmValue, first: LlvmValue, second: LlvmValue
) -> LlvmValue:
    """Adds products of neighbouring signed numbers, in words that every processor has."""
    wide, group = total.type, first.type.count // total.type.count
    for start in range(group):
        lanes = range(start, first.type.count, group)
        left, right = (e.build.sext(e.shuffle(x, x, lanes), wide) for x in (first, second))
        total = e.build.add(total, e.build.mul(left, right))
    return total


def _multiply_add(
    e: LlvmEmitter, total: LlvmValue, first: LlvmValue, second: LlvmValue
) -> LlvmValue:
    name = {
        4: "llvm.x86.sse2.pmadd.wd",
        8: "llvm.x86.avx2.pmadd.wd",
        16: "llvm.x86.avx512.pmaddw.d.512",
    }[total.type.count]
    return e.build.add(total, e.intrinsic(name, total.type, first, second))


def _multiply_add_pairwise(
    e: LlvmEmitter, total: LlvmValue, first: LlvmValue, second: LlvmValue
) -> LlvmValue:
    if total.type.count != 4:
        return sum_neighbours(e, total, first, second)
    products = []
    for which in range(2):
        left, right = (e.build.sext(e.half(each, which), total.type) for each in (first, second))
        products.append(e.build.mul(left, right))
    sums = e.intrinsic("llvm.aarch64.neon.addp.v4i32", total.type, *products)
    return e.build.add(total, sums)


def _dot(name: str) -> WriteDot:
    """Returns what writes an intrinsic; its name is filled in with lanes and bits."""

    def write(
        e: LlvmEmitter, total: LlvmValue, activations: LlvmValue, weights: LlvmValue
    ) -> LlvmValue:
        lanes = total.type.count
        full = name.format(lanes=lanes, bytes=4 * lanes, bits=32 * lanes)
        return e.intrinsic(full, total.type, total, activations, weights)

    return write


_VPDPBUSD = _dot("llvm.x86.avx512.vpdpbusd.{bits}")
_VPDPWSSD = _dot("llvm.x86.avx512.vpdpwssd.{bits}")
_SDOT = _dot("llvm.aarch64.neon.sdot.v{lanes}i32.v{bytes}i8")
_USDOT = _dot("llvm.aarch64.neon.usdot.v{lanes}i32.v{bytes}i8")

_X86, _ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq")

# fmt: off
TARGETS = {
    target.name: target
    for target in (
        LlvmInstructionSet("avx512_vnni", 16, 14, 2, 4, "u8",
               _X86, "cascadelake", "", (*_AVX512, "avx512vnni"), _VPDPBUSD, _VPDPWSSD),
        LlvmInstructionSet("avx512", 16, 14, 2, 2, "s16",
               _X86, "skylake-avx512", "", _AVX512, _multiply_add, _multiply_add),
        LlvmInstructionSet("avx_vnni", 8, 6, 2, 4, "u8",
               _X86, "alderlake", "", ("avx2", "avxvnni"), _VPDPBUSD, _VPDPWSSD),
        LlvmInstructionSet("avx2", 8, 6, 2, 2, "s16",
               _X86, "haswell", "", ("avx2",), _multiply_add, _multiply_add),
        LlvmInstructionSet("dotprod", 4, 6, 4, 4, "s8",
               _ARM, "neoverse-n1", "", ("neon", "dotprod"), _SDOT, _multiply_add_pairwise),
        LlvmInstructionSet("i8mm", 4, 6, 4, 4, "u8",
               _ARM, "neoverse-v1", "", ("neon", "i8mm"), _USDOT, _multiply_add_pairwise),
    )
}
# fmt: on
"""All instruction sets, as on a processor that has them, the best of each architecture first."""


@cache
def host_targets() -> tuple[LlvmInstructionSet, ...]:
    """Returns the instruction sets of this machine, best first; none where no kernel can run.

    Each does without what only better ones need, so that it makes the code of a machine that has
    no better one.
    """
    triple = llvm.get_process_triple()
    architecture = triple.split("-")[0].replace("arm64", "aarch64")
    known = host_features()
    cpu = llvm.get_host_cpu_name()
    features = ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(known.items()))
    found: list[LlvmInstructionSet] = []
    for target in TARGETS.values():
        if not target.triple.startswith(architecture) or not all(map(known.get, target.needs)):
            continue
        better = dict.fromkeys(need for other in found for need in other.needs)
        without = [f"-{need}" for need in better if need not in target.needs]
        own = ",".join([features, *without])
        found.append(replace(target, triple=triple, cpu=cpu, features=own))
    return tuple(found)


def host_target(name: str | None = None) -> LlvmInstructionSet | None:
    """Returns an instruction set of this machine, or None where no kernel can run.

    Args:
        name: Its name; None for the one that `$QIR_INSTRUCTION_SET` names, else for the best.

    Raises:
        QirError: This machine has none of that name.
    """
    found = {target.name: target for target in host_targets()}
    name = name or os.environ.get(VARIABLE)
    if not name:
        return next(iter(found.values()), None)
    if name in found:
        return found[name]
    if name in TARGETS:
        here = ", ".join(found) or "none"
        raise QirError(
            f"{VARIABLE}: expected an instruction set of this machine ({here}), got {name}"
        )
    raise QirError(
        f"{VARIABLE}: expected one of {', '.join(TARGETS)}, got {name!r}"
        + did_you_mean(name, TARGETS)
    )
