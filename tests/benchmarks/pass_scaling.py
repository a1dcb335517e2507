"""Time per node of reading, printing, verifying and rewriting programs of up to 50,000 nodes.

Run `python -m tests.benchmarks.pass_scaling`. Where a step is linear the time per node stays the
same from column to column. The programs are networks and what would hurt a careless pass: one
value with many readers, chains that one rule walks along, constants that are all alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from qir.analysis.verify import verify
from qir.ir import Graph, Value
from qir.ops import Add, Dequantize, Dot, Mul, Quantize, Relu, Reshape, Sub, Tanh
from qir.ops.op import Op
from qir.passes.float.canonicalize import Canonicalize
from qir.passes.float.fold_batch_norm import FoldBatchNorm
from qir.passes.float.fold_scales import FoldScales
from qir.pipeline import Context, Pass
from qir.text import parse, to_program
from qir.types import Affine, DType, TensorType

SIZES = (1_000, 10_000, 50_000)
PASSES: tuple[Pass, ...] = (Canonicalize(), FoldBatchNorm(), FoldScales())
CODE = Affine.of(DType.I8, 0.05)


class Builder:
    """A program of matrices [4, 4] that grows op by op."""

    def __init__(self) -> None:
        self.graph = Graph("program")
        self.at = self.graph.at_end()
        self.last = self.graph.add_input("x", TensorType((4, 4), DType.F32))
        self.rng = np.random.default_rng(0)

    def add(self, op: Op, *more: Value) -> None:
        """Applies an op to the last value."""
        self.last = self.at.emit(op, self.last, *more)

    def const(self, *shape: int) -> Value:
        """Adds a constant."""
        return self.at.const(self.rng.normal(size=shape).astype(np.float32), "k")

    def finish(self, *outputs: Value) -> Graph:
        """Ends the program."""
        self.graph.set_outputs(outputs or (self.last,))
        return self.graph


def network(count: int) -> Graph:
    """Layers: dot with bias, a normalization by sums and products, relu."""
    net = Builder()
    for _ in range(count // 9):
        net.add(Dot(), net.const(4, 4), net.const(4))
        net.add(Sub(), net.const(4))
        net.add(Mul(), net.const(4))
        net.add(Relu())
    return net.finish()


def coded(count: int) -> Graph:
    """Casts to and from one code around moves."""
    net = Builder()
    for _ in range(count // 4):
        net.add(Quantize(CODE))
        net.add(Dequantize())
        net.add(Reshape((2, 8)))
        net.add(Reshape((4, 4)))
    return net.finish()


def distant(count: int) -> Graph:
    """Ops that a factor may pass, all the way between the first weights and the factor."""
    net = Builder()
    net.add(Dot(), net.const(4, 4))
    for _ in range(count):
        net.add(Relu())
        net.add(Reshape((4, 4)))
    net.add(Mul(), net.const(4))
    return net.finish()


def sums(count: int) -> Graph:
    """One long chain of sums with constants."""
    net = Builder()
    for _ in range(count // 2):
        net.add(Add(), net.const(4))
    return net.finish()


def readers(count: int) -> Graph:
    """One value that half of the ops read, each with a neutral constant or alike."""
    net = Builder()
    net.add(Tanh())
    source, zero = net.last, net.at.const(np.zeros(4, np.float32), "zero")
    total = source
    for _ in range(count // 3):
        same = net.at.emit(Add(), source, zero)
        total = net.at.emit(Sub(), total, net.at.emit(Tanh(), same))
    return net.finish(total)


def constants(count: int) -> Graph:
    """Constants, folded one after the other."""
    net = Builder()
    total = net.const(4)
    for _ in range(count // 2):
        total = net.at.emit(Add(), total, net.const(4))
    net.add(Add(), total)
    return net.finish()


PROGRAMS: tuple[Callable[[int], Graph], ...] = (network, coded, distant, sums, readers, constants)


def seconds(work: Callable[[], object]) -> float:
    """Returns how long some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(build: Callable[[int], Graph], count: int) -> dict[str, float]:
    """Returns the seconds that each step takes on a program of about `count` nodes."""
    graph = build(count)
    times = {"print": seconds(lambda: to_program(graph))}
    program = to_program(graph)
    times["parse"] = seconds(lambda: parse(program.text, program.arrays))
    times["verify"] = seconds(lambda: verify(graph))
    for step in PASSES:
        if not any(wanted.missing(graph) for wanted in step.requires):
            times[step.name] = seconds(partial(step.run, graph.copy(), Context()))
    return {name: taken / sum(1 for _ in graph.nodes) for name, taken in times.items()}


def main() -> None:
    """Prints a table for each program."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=SIZES,
        help="nodes of a program (default: %(default)s)",
    )
    sizes = parser.parse_args().sizes
    for build in PROGRAMS:
        print(f"{build.__name__}: {build.__doc__} Microseconds a node.")
        columns = [measure(build, size) for size in sizes]
        print(f"  {'nodes':16}" + "".join(f"{size:>10,}" for size in sizes))
        for name in columns[0]:
            print(f"  {name:16}" + "".join(f"{1e6 * column[name]:>10.1f}" for column in columns))


if __name__ == "__main__":
    main()
