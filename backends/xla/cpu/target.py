"""Instruction sets: how products of bytes are summed, and how many registers there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llvmlite import binding as llvm

from qir.backends.xla.cpu.emitter import I8, I16, I32, Emitter, Value, vector


@dataclass(frozen=True)
class Target:
    """An instruction set with what a kernel has to know of it.

    A dot instruction sums products of neighbours: in each lane of 32 bits, `group` activations
    times `group` weights. All of these are exact, also at the extremes.

    Attributes:
        name: Its name.
        triple: LLVM's name of the platform.
        cpu: LLVM's name of the processor, for scheduling.
        features: LLVM's features, as a comma-separated list.
        lanes: Numbers of 32 bits in a vector.
        rows: Most rows of a tile of accumulators.
        vectors: Vectors in such a row.
        group: Neighbours that a dot instruction sums.
        unsigned: Whether activations enter as unsigned bytes; otherwise as signed 16-bit numbers.
    """

    name: str
    triple: str
    cpu: str
    features: str
    lanes: int
    rows: int
    vectors: int
    group: int
    unsigned: bool

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        return self.lanes * self.vectors

    @property
    def activation_bytes(self) -> int:
        """Bytes of an activation as the dot instruction reads it."""
        return 4 // self.group

    def weights(self, e: Emitter, pointer: Value, offset: int) -> Value:
        """Loads the weights of one group for a vector of columns."""
        loaded = e.load(vector(I8, self.lanes * self.group), pointer, offset, align=16)
        if self.group == 2:
            return e.build.sext(loaded, vector(I16, self.lanes * 2))
        return e.build.bitcast(loaded, vector(I32, self.lanes))

    def activations(self, e: Emitter, pointer: Value, offset: int) -> Value:
        """Loads one group of activations into all lanes."""
        repeated = e.splat(e.load(I32, pointer, offset, align=4), self.lanes)
        return (
            e.build.bitcast(repeated, vector(I16, self.lanes * 2)) if self.group == 2 else repeated
        )

    def dot(self, e: Emitter, total: Value, activations: Value, weights: Value) -> Value:
        """Adds the products of neighbours to each lane of a total."""
        return _DOTS[self.name](self, e, total, activations, weights)


def _pairs(target: Target, e: Emitter, total: Value, activations: Value, weights: Value) -> Value:
    name = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[target.lanes]
    products = e.intrinsic(name, vector(I32, target.lanes), activations, weights)
    return e.build.add(total, products)


def _quads(target: Target, e: Emitter, total: Value, activations: Value, weights: Value) -> Value:
    name = f"llvm.x86.avx512.vpdpbusd.{target.lanes * 32}"
    quads = vector(I8, target.lanes * 4)
    first, second = (e.build.bitcast(each, quads) for each in (activations, weights))
    return e.intrinsic(name, vector(I32, target.lanes), total, first, second)


_DOTS: Mapping[str, Callable[[Target, Emitter, Value, Value, Value], Value]] = {
    "avx2": _pairs,
    "avx_vnni": _quads,
    "avx512_vnni": _quads,
}


def host_target() -> Target | None:
    """Returns the best instruction set of this machine, or None where there is none for kernels."""
    triple = llvm.get_process_triple()
    if not triple.startswith("x86_64"):
        return None
    features = llvm.get_host_cpu_features()
    known, cpu = features.flatten(), llvm.get_host_cpu_name()
    if all(features.get(name) for name in ("avx512vnni", "avx512bw", "avx512vl", "avx512dq")):
        return Target("avx512_vnni", triple, cpu, known, 16, 14, 2, 4, True)
    if features.get("avxvnni"):
        return Target("avx_vnni", triple, cpu, known, 8, 6, 2, 4, True)
    if features.get("avx2"):
        return Target("avx2", triple, cpu, known, 8, 6, 2, 2, False)
    return None
