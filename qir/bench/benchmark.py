"""How fast programs run on this machine, as XLA compiles them; they take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from qir.api import compile
from qir.bench.timing import TURN, Contender, Times, interleave
from qir.errors import QirError
from qir.ir import Graph, Value
from qir.ir.signature import Sizes, bind, named_dimensions
from qir.observe.batches import random_inputs
from qir.report.summary import Summary, summary
from qir.report.tables import table
from qir.text import parse
from qir.types import Array, Dim, format_shape

ROUNDS = 20
"""Turns of each program."""
EMPTY = "graph @empty(%x: f32[1]) {\n  %y = neg(%x) : f32[1]\n  return %y\n}"
"""A program that does next to nothing: what a call of it takes, every call takes."""
LEGEND = (
    "speed: against the first program, by medians; "
    "GOPS: 10^9 multiplications and additions a second, by the types of the factors"
)


@dataclass(frozen=True)
class Started:
    """A program that is compiled and has run once.

    Args:
        contender: Calls it, to be timed.
        compile_seconds: Seconds that the first call took together with compilation.
        lowerings: Name of the way in which each value is computed, by the value's name.
    """

    contender: Contender
    compile_seconds: float
    lowerings: Mapping[str, str]


@dataclass(frozen=True)
class Measurement:
    """What was measured of one program, and what its types tell.

    Args:
        name: What the program is called.
        compile_seconds: Seconds from the program to its first outputs, all compilation included.
        times: Seconds of each call.
        samples: Size of the first axis of its first input; None where that is a number, or where
            there is no input.
        costs: Its costs at the sizes that were measured.
    """

    name: str
    compile_seconds: float
    times: Times
    samples: int | None
    costs: Summary


@dataclass(frozen=True)
class Benchmark:
    """Programs that were measured together; printed as a table.

    Args:
        programs: The measurements, in the order of the programs.
        empty: Seconds of each call of an empty program.
    """

    programs: tuple[Measurement, ...]
    empty: Times

    def speedup(self, index: int) -> float:
        """How many times as fast as the first program one is, by the medians."""
        return self.programs[0].times.median / self.programs[index].times.median

    def __str__(self) -> str:
        header = (
            "program", "compile s", "median ms", "p10 ms", "p90 ms", "samples/s",
            "parameter bytes", "peak activation bytes", "speed", "GOPS",
        )  # fmt: skip
        rows: list[tuple[str, ...]] = [header]
        for index, program in enumerate(self.programs):
            times, costs = program.times, program.costs
            rows.append(
                (
                    program.name,
                    f"{program.compile_seconds:.2f}",
                    *(f"{1000 * times.quantile(part):.3f}" for part in (0.5, 0.1, 0.9)),
                    f"{program.samples / times.median:,.1f}" if program.samples else "",
                    f"{costs.parameter_bytes:,}",
                    f"{costs.peak_bytes:,}",
                    f"{self.speedup(index):.2f}",
                    ", ".join(
                        f"{gops(count, times.median):.1f} {width}"
                        for width, count in costs.multiply_adds.items()
                    ),
                )
            )
        call = f"a call of an empty program: {1e6 * self.empty.median:.0f} µs"
        return "\n".join([*table(rows, right=range(1, 9)), call, LEGEND])


def gops(multiply_adds: int, seconds: float) -> float:
    """Returns 10^9 multiplications and additions a second."""
    return 2 * multiply_adds / seconds / 1e9


def choose_inputs(
    graphs: Iterable[tuple[str, Graph]],
    samples: Callable[[Graph], Mapping[str, Array]] | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> list[tuple[Array, ...]]:
    """Returns the arrays to run each program on, such that they can be compared.

    Args:
        graphs: The programs with their names.
        samples: Returns arrays by input name for a program; real numbers are put into the code of
            an input. Random numbers when None; see `qir.observe.batches.random_inputs`.
        sizes: Sizes of named dimensions, to which samples are cut; when left out, those of the
            samples, and 1 for random numbers.
        seed: Seed of the random numbers.

    Raises:
        QirError: No program has a dimension of a name in `sizes`, samples do not fit, or the inputs
            of two programs differ in number or shape. Their types may differ.
    """
    programs, wanted = list(graphs), dict(sizes or {})
    names = {name for _, graph in programs for name in named_dimensions(graph.inputs)}
    for name, size in wanted.items():
        if name not in names:
            there = f"expected one of {', '.join(sorted(names))}" if names else "none has a name"
            raise QirError(f"bench: no input has a dimension {name}: {there}")
        if size < 1:
            raise QirError(f"bench: expected {name} to be at least 1, got {size}")
    chosen: list[tuple[Array, ...]] = []
    for name, graph in programs:
        if samples is None:
            arrays = random_inputs(graph, seed, 1, wanted)
        else:
            given = samples(graph)
            arrays = tuple(_fitted(given[value.name], value, wanted) for value in graph.inputs)
        bind(graph.inputs, arrays, "bench")
        if chosen and _shapes(arrays) != _shapes(chosen[0]):
            raise QirError(
                f"bench: expected inputs {_shapes(chosen[0])} as in {programs[0][0]}, "
                f"got {_shapes(arrays)} in {name}"
            )
        chosen.append(arrays)
    return chosen


def _shapes(arrays: Sequence[Array]) -> str:
    return ", ".join(format_shape(array.shape) for array in arrays)


def _fitted(array: Array, value: Value, sizes: Mapping[str, int]) -> Array:
    """Returns samples for an input: cut to the sizes that are given, and in the input's code."""
    if array.ndim == value.type.rank:
        known = Sizes(sizes)
        for axis, size in enumerate(value.type.shape):
            if not isinstance(size, Dim) or not set(size.names) <= set(sizes):
                continue
            wanted = known.size(size)
            if array.shape[axis] < wanted:
                raise QirError(
                    f"bench: expected at least {wanted} along axis {axis} of %{value.name}, "
                    f"got {array.shape[axis]} in the samples"
                )
            array = array[(slice(None),) * axis + (slice(wanted),)]
        code = value.type.quant
        if code is not None and array.dtype.kind == "f":
            code.check(array.shape)
            return code.encode(array)
    return array


def benchmark(
    programs: Sequence[tuple[str, Graph]],
    inputs: Sequence[Sequence[Array]],
    rounds: int = ROUNDS,
    *,
    turn: float = TURN,
    clock: Callable[[], float] = time.perf_counter,
) -> Benchmark:
    """Compiles programs with XLA and times them in turns, with their inputs on the device.

    Args:
        programs: The programs with their names.
        inputs: The arrays to run each on; see `choose_inputs`.
        rounds: Turns of each program.
        turn: Seconds that a turn lasts at least.
        clock: Returns the time in seconds.

    Raises:
        QirError: An input does not fit, or an op has no lowering.
    """
    nothing = parse(EMPTY)
    empty = start("empty", nothing, random_inputs(nothing))
    started = [
        start(name, graph, arrays, clock)
        for (name, graph), arrays in zip(programs, inputs, strict=True)
    ]
    contenders = [each.contender for each in (*started, empty)]
    *times, overhead = interleave(contenders, rounds, turn=turn, clock=clock)
    return Benchmark(
        tuple(
            Measurement(
                name,
                each.compile_seconds,
                taken,
                arrays[0].shape[0] if arrays and arrays[0].ndim else None,
                summary(graph, bind(graph.inputs, arrays, "bench").names),
            )
            for (name, graph), arrays, each, taken in zip(
                programs, inputs, started, times, strict=True
            )
        ),
        overhead,
    )


def start(
    name: str,
    graph: Graph,
    inputs: Sequence[Array],
    clock: Callable[[], float] = time.perf_counter,
) -> Started:
    """Compiles a program and calls it once on its inputs, which lie on the device."""
    import jax

    given = [jax.device_put(array).block_until_ready() for array in inputs]
    begin = clock()
    compiled = compile(graph)

    def call() -> None:
        for output in compiled(*given):
            output.block_until_ready()

    call()
    return Started(Contender(name, call), clock() - begin, compiled.lowerings)
