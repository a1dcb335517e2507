"""Where the time of a program goes that kernels compute, beside what the machine can do at most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qir.bench.benchmark import gops
from qir.bench.profile import Ceilings, Part, Profile
from qir.ir import Graph
from qir.ir.signature import bind
from qir.ops import Const
from qir.report.summary import multiply_adds, packed_bytes
from qir.report.tables import table
from qir.types import Array

LEGEND = """\
us: waiting for the slowest thread included; bytes: operands, results and parameters, each once
GOPS: 10^9 multiplications and additions a second as the op is defined; Winograd's method does with
fewer, so it may pass the peak, but not its limit
limit: what takes longest at the machine's best: compute, memory (parameters, read as fast as
anything of the program's size) or cache (all bytes, as fast as so many are read)"""


@dataclass(frozen=True)
class OpBound:
    """The time of some ops that a kernel computes together, and what bounds it.

    Args:
        ops: Names of the ops.
        values: Names of their results.
        loc: Where in the user's model the first comes from; else empty.
        kernels: Names of the kernels; empty where nothing is to be done.
        seconds: Seconds in a call of the program.
        multiply_adds: Multiply-accumulates.
        parameter_bytes: Bytes of constant operands.
        moved_bytes: Bytes of all operands and results.
        limits: Least seconds by each limit, by its name.
        peak: The greatest rate of multiplications and additions, in 10^9 a second.
    """

    ops: tuple[str, ...]
    values: tuple[str, ...]
    loc: str
    kernels: tuple[str, ...]
    seconds: float
    multiply_adds: int
    parameter_bytes: int
    moved_bytes: int
    limits: Mapping[str, float]
    peak: float

    @property
    def gops(self) -> float:
        """10^9 multiplications and additions a second."""
        return gops(self.multiply_adds, self.seconds) if self.seconds else 0.0

    @property
    def limit(self) -> str:
        """Name of the limit that binds; empty where nothing is to be done."""
        return max(self.limits, key=lambda name: self.limits[name]) if self.least else ""

    @property
    def least(self) -> float:
        """Seconds that it takes at least."""
        return max(self.limits.values())


@dataclass(frozen=True)
class Roofline:
    """The ops of a program that kernels compute; printed as a table.

    Args:
        name: The program's name.
        ops: The ops in the order in which they run.
        seconds: Seconds of a call.
        ceilings: What the machine can do at most, by the number of threads.
    """

    name: str
    ops: tuple[OpBound, ...]
    seconds: float
    ceilings: Mapping[int, Ceilings]

    @property
    def values(self) -> frozenset[str]:
        """Names of the values that kernels compute."""
        return frozenset(value for op in self.ops for value in op.values)

    @property
    def gops(self) -> float:
        """10^9 multiplications and additions a second, of the whole call."""
        return gops(sum(op.multiply_adds for op in self.ops), self.seconds)

    @property
    def peak(self) -> float:
        """The greatest rate, in 10^9 multiplications and additions a second."""
        return max(op.peak for op in self.ops)

    @property
    def least(self) -> float:
        """Seconds that the ops take at least, one after the other."""
        return sum(op.least for op in self.ops)

    @property
    def summary(self) -> str:
        """A line on the whole program."""
        return (
            f"{self.name}: {1000 * self.seconds:.3f} ms, {self.gops:.1f} GOPS, "
            f"{self.gops / self.peak:.0%} of the peak; at least {1000 * self.least:.3f} ms by "
            f"the roofline, {self.least / self.seconds:.0%} of the time"
        )

    def __str__(self) -> str:
        header = (
            "op", "value", "kernel", "us", "share", "GOPS", "of peak", "bytes", "GB/s", "limit",
            "of limit", "",
        )  # fmt: skip
        rows: list[tuple[str, ...]] = [header]
        for op in self.ops:
            rate, share = _rates(op.gops, op.peak)
            moved = f"{op.moved_bytes / op.seconds / 1e9:.1f}" if op.seconds else ""
            near = f"{op.least / op.seconds:.0%}" if op.seconds else ""
            rows.append(
                (
                    " + ".join(op.ops), f"%{op.values[-1]}", ", ".join(op.kernels),
                    *self._time(op.seconds), rate, share, f"{op.moved_bytes:,}", moved, op.limit,
                    near, op.loc,
                )
            )  # fmt: skip
        inside = sum(op.seconds for op in self.ops)
        blank = ("",) * 7
        rows.append(("outside of kernels", "", "", *self._time(self.seconds - inside), *blank))
        return "\n".join(
            [
                f"kernels of {self.name}",
                *(str(each) for each in self.ceilings.values()),
                *table(rows, right=(3, 4, 5, 6, 7, 8, 10)),
                self.summary,
                LEGEND,
            ]
        )

    def _time(self, seconds: float) -> tuple[str, str]:
        return f"{1e6 * seconds:.1f}", f"{seconds / self.seconds:.1%}"


def _rates(rate: float, peak: float) -> tuple[str, str]:
    return (f"{rate:.1f}", f"{rate / peak:.0%}") if rate else ("", "")


def roofline(name: str, graph: Graph, inputs: Sequence[Array], profile: Profile) -> Roofline | None:
    """Sets the times of a program's kernels beside what bounds them on this machine.

    Args:
        name: What the program is called.
        graph: The program.
        inputs: The arrays that it ran on.
        profile: The times.

    Returns:
        The figures; None where no kernel computes anything of the program.
    """
    if not profile.parts:
        return None
    sizes = bind(graph.inputs, inputs, "bench").names
    bounds = [
        _bound(part, profile.ceilings[part.threads], profile.memory, sizes)
        for part in profile.parts
    ]
    return Roofline(name, tuple(bounds), profile.seconds, profile.ceilings)


def _bound(part: Part, best: Ceilings, memory: int, sizes: Mapping[str, int]) -> OpBound:
    """Returns the costs of ops, and what they take at least."""
    macs = parameters = 0
    for node in part.nodes:
        macs += multiply_adds(node, sizes)
        constants = {value for value in node.inputs if value.is_constant}
        inside = (each for region in node.regions for each in region.walk())
        constants |= {each.output for each in inside if isinstance(each.op, Const)}
        parameters += sum(packed_bytes(value.type, sizes) for value in constants)
    moved = parameters if part.kernels else 0
    if part.kernels:
        values = (*part.reads, *part.nodes[-1].outputs)
        moved += sum(packed_bytes(value.type, sizes) for value in values)
    return OpBound(
        tuple(node.op.name for node in part.nodes),
        tuple(value.name for node in part.nodes for value in node.outputs),
        part.nodes[0].loc or "",
        part.kernels,
        part.seconds,
        macs,
        parameters,
        moved,
        {
            "compute": 2 * macs / part.saving / best.gops / 1e9,
            "memory": parameters / best.bandwidth(max(memory, parameters)),
            "cache": moved / best.bandwidth(moved),
        },
        best.gops,
    )
