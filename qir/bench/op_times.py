"""Where the time of a program goes: each op measured as a program of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from qir.bench.benchmark import EMPTY, ROUNDS, Started, gops, start
from qir.bench.timing import Times, interleave
from qir.errors import QirError
from qir.ir import Graph, Node, Value
from qir.observe.batches import random_inputs
from qir.ops import Const, Dequantize, Lookup, Requantize, Return
from qir.report.summary import multiply_adds
from qir.report.tables import table
from qir.text import parse

TURN = 0.002
"""Seconds that the turn of one op lasts: there are many of them."""
FINISHING = (Requantize, Dequantize, Lookup)
"""Ops that are measured with the one before them, whose loop every backend puts them in."""


@dataclass(frozen=True)
class OpTime:
    """The time of one op.

    Args:
        ops: Its name, and those of the casts and tables that were measured with it.
        value: Name of the last result.
        type: Type of that result, without its code.
        times: Seconds of each call; None where the op can't be computed alone.
        multiply_adds: Its multiply-accumulates.
        lowering: Name of the way in which the first of the ops was computed.
        reason: Why it can't be computed alone; else empty.
    """

    ops: str
    value: str
    type: str
    times: Times | None
    multiply_adds: int
    lowering: str
    reason: str


@dataclass(frozen=True)
class OpTimes:
    """The ops of a program with their times; printed as a table.

    Args:
        name: The program's name.
        ops: One entry for an op with what was measured with it, in the order of the program.
        empty: Seconds of each call of an empty program, which every op's time contains.
    """

    name: str
    ops: tuple[OpTime, ...]
    empty: Times

    @property
    def total(self) -> float:
        """Sum of the medians in seconds."""
        return sum(op.times.median for op in self.ops if op.times is not None)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("op", "value", "type", "ms", "share", "GOPS", "lowering")]
        for op in self.ops:
            figures: tuple[str, ...] = ("", "", "", op.reason)
            if op.times is not None:
                median = op.times.median
                rate = f"{gops(op.multiply_adds, median):.1f}" if op.multiply_adds else ""
                figures = (f"{1000 * median:.3f}", f"{median / self.total:.1%}", rate, op.lowering)
            rows.append((op.ops, f"%{op.value}", op.type, *figures))
        rows.append(("sum", "", "", f"{1000 * self.total:.3f}", "", "", ""))
        call = f"{1e6 * self.empty.median:.0f} µs"
        return "\n".join(
            [
                f"ops of {self.name}",
                *table(rows, right=(3, 4, 5)),
                "each row is a program of its own on random numbers: how XLA fuses it with other "
                f"rows is not seen, and the {call} of a call are in each time",
            ]
        )


def op_times(
    name: str,
    graph: Graph,
    sizes: Mapping[str, int] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    *,
    without: Collection[str] = (),
    progress: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> OpTimes:
    """Compiles every op of a program as a program of its own and times them in turns.

    An op takes along the casts and tables that alone read its result.

    Args:
        name: What the program is called.
        graph: The program.
        sizes: Sizes of named dimensions; 1 where left out.
        rounds: Turns of each op.
        seed: Seed of the operands, which are random.
        without: Names of values whose ops are left out.
        progress: Whether to show a progress bar.
        clock: Returns the time in seconds.
    """
    costs = {node: multiply_adds(node, sizes or {}) for node in graph.nodes}
    nothing = parse(EMPTY)
    contenders = [start("empty", nothing, random_inputs(nothing)).contender]
    alone: list[Started | QirError] = []
    chains = _chains(graph, without)
    for chain in tqdm(chains, "compiling ops", disable=not progress, leave=False):
        part = _part(graph, chain)
        try:
            started = start(part.name, part, random_inputs(part, seed, 1, sizes))
        except QirError as error:
            alone.append(error)
            continue
        alone.append(started)
        contenders.append(started.contender)
    empty, *measured = interleave(contenders, rounds, turn=TURN, clock=clock)
    times = iter(measured)
    return OpTimes(
        name,
        tuple(
            _line(chain, costs, each, None if isinstance(each, QirError) else next(times))
            for chain, each in zip(chains, alone, strict=True)
        ),
        empty,
    )


def _line(
    chain: Sequence[Node],
    costs: Mapping[Node, int],
    alone: Started | QirError,
    times: Times | None,
) -> OpTime:
    first, last = chain[0].outputs[0], chain[-1].outputs[0]
    return OpTime(
        " + ".join(node.op.name for node in chain),
        last.name,
        str(last.type.with_element(last.type.dtype)),
        times,
        sum(costs[node] for node in chain),
        alone.lowerings.get(first.name, "") if isinstance(alone, Started) else "",
        alone.message if isinstance(alone, QirError) else "",
    )


def _chains(graph: Graph, without: Collection[str]) -> list[list[Node]]:
    """Returns the ops, each with those that finish it, but those that compute some values."""
    taken = {node for node in graph.nodes if any(v.name in without for v in node.outputs)}
    chains: list[list[Node]] = []
    for node in graph.nodes:
        if node in taken or isinstance(node.op, Const | Return) or not node.outputs:
            continue
        chain = [node]
        while (follower := _finishing(chain[-1])) is not None and follower not in taken:
            chain.append(follower)
        taken.update(chain)
        chains.append(chain)
    return chains


def _finishing(node: Node) -> Node | None:
    if len(node.outputs) != 1 or len(node.output.uses) != 1:
        return None
    (user,) = node.output.users
    return user if isinstance(user.op, FINISHING) and user.inputs[0] is node.output else None


def _part(graph: Graph, chain: Sequence[Node]) -> Graph:
    """Returns some ops as a program of what varies in their operands."""
    results = {value for node in chain for value in node.outputs}
    operands: dict[Value, None] = {
        value: None
        for node in chain
        for value in node.inputs
        if value not in results and not value.is_constant
    }
    outputs = chain[-1].outputs
    return graph.extract(list(operands), outputs, outputs[0].name)
