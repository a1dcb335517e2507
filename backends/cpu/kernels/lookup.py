"""The code of functions of one byte."""

from __future__ import annotations

from collections.abc import Sequence

from qir.backends.cpu.emitter import I8, LlvmValue, constant, vector
from qir.backends.cpu.kernel import KernelBody, kernel_code
from qir.backends.cpu.kernels.flat import FlatCode, VectorFunction
from qir.backends.native.kernels.flat import LANES
from qir.backends.native.kernels.lookup import ClampKernel, FlipKernel, LookupKernel


def table_rows(e: KernelBody, pointer: LlvmValue) -> list[LlvmValue]:
    """Loads a table of 256 bytes into registers: 32 entries in each, or 16 that stand twice."""
    if e.target.permutes_bytes:
        return [e.load(vector(I8, 32), pointer, 32 * row) for row in range(8)]
    rows = []
    for row in range(16):
        entries = e.load(vector(I8, 16), pointer, 16 * row)
        rows.append(e.concat(entries, entries))
    return rows


def picked(e: KernelBody, rows: Sequence[LlvmValue], x: LlvmValue) -> LlvmValue:
    """Returns the entries of a table at the bits of bytes, read as unsigned numbers.

    The low bits of a byte pick from the entries in each register, or in two; the high bits then
    choose between these, as in a tournament.

    Args:
        e: Where to write.
        rows: The table.
        x: Vector of `LANES` bytes.
    """
    build = e.build
    low_half, zero = constant(x.type, 15), constant(x.type, 0)
    if e.target.permutes_bytes:
        pairs = zip(rows[::2], rows[1::2], strict=True)
        found, first = [e.target.permuted(e, *pair, x) for pair in pairs], 6
    else:
        index = build.and_(x, low_half)
        found, first = [e.target.pick(e, row, index) for row in rows], 4
    for bit in range(first, 8):
        one = build.shl(x, constant(x.type, 7 - bit)) if bit < 7 else x
        chosen = build.icmp_signed("<", one, zero)
        found = [build.select(chosen, found[at + 1], found[at]) for at in range(0, len(found), 2)]
    return found[0]


@kernel_code(LookupKernel)
class LookupCode(FlatCode, LookupKernel):
    """The code of `LookupKernel`."""

    def prepare(self, e: KernelBody) -> VectorFunction:
        """Loads the table into registers."""
        rows = table_rows(e, e.tensor("table"))

        def compute(sources: Sequence[LlvmValue], phase: LlvmValue) -> LlvmValue:
            (place,) = sources
            return picked(e, rows, e.load(vector(I8, LANES), place))

        return compute


@kernel_code(ClampKernel)
class ClampCode(FlatCode, ClampKernel):
    """The code of `ClampKernel`."""

    def prepare(self, e: KernelBody) -> VectorFunction:
        """Loads the bounds."""
        build = e.build
        low, high = (e.splat(build.trunc(e.parameter(name), I8), LANES) for name in ("low", "high"))
        compare = build.icmp_unsigned if self.unsigned else build.icmp_signed

        def compute(sources: Sequence[LlvmValue], phase: LlvmValue) -> LlvmValue:
            (place,) = sources
            x = e.load(vector(I8, LANES), place)
            x = build.select(compare(">", x, low), x, low)
            return build.select(compare("<", x, high), x, high)

        return compute


@kernel_code(FlipKernel)
class FlipCode(FlatCode, FlipKernel):
    """The code of `FlipKernel`."""

    def prepare(self, e: KernelBody) -> VectorFunction:
        """Needs nothing."""
        bytes_ = vector(I8, LANES)
        highest = constant(bytes_, -128)

        def compute(sources: Sequence[LlvmValue], phase: LlvmValue) -> LlvmValue:
            (place,) = sources
            return e.build.xor(e.load(bytes_, place), highest)

        return compute
