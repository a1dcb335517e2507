"""Where the accuracy of an integer program went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from qir.backends.reference.interpreter import run_all
from qir.ir import Graph, expect_graph
from qir.observe.observations import Observations
from qir.passes.shared.calibration_data import read_batches
from qir.pipeline import Batch
from qir.report.compare.comparing import SAMPLES, Comparing
from qir.report.compare.result import ComparisonReport
from qir.types import Array


def compare(
    float_graph: Graph,
    integer_graph: Graph,
    data: Iterable[Batch],
    *,
    samples: int = SAMPLES,
) -> ComparisonReport:
    """Tells of every value how far an integer program is from the float one, and why.

    Args:
        float_graph: The float program.
        integer_graph: The program that was made of it.
        data: Batches as for `quantize`.
        samples: How many samples of them are compared at most.
    """
    expect_graph(float_graph, "compare")
    expect_graph(integer_graph, "compare")
    from qir.backends.xla.executor import XlaExecutor

    observations = Observations(data)
    comparing = Comparing(float_graph, integer_graph, run_all, XlaExecutor())
    return comparing.run(_arrays(float_graph, observations), samples)


def _arrays(graph: Graph, data: Iterable[Batch]) -> Iterator[Sequence[Array]]:
    for arrays, _ in read_batches(graph, data):
        yield arrays
