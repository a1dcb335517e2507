"""A program saved after any pass of a named pipeline goes on to the program of the whole run."""

from functools import cache
from pathlib import Path

import pytest

import qir
import qir.passes  # registers the pipelines  # pyright: ignore[reportUnusedImport]
from qir.ir import Graph
from qir.pipeline import PIPELINES, Context, Pipeline
from tests.models.small_networks import NETWORKS
from tests.models.transformers import Inputs

PARTS = {"fold", "scores", "ranges", "fine", "integer"}
WHOLE = [name for name in PIPELINES if name not in PARTS]
PREPARED = {"w8a16": "w8a16", "w4a16": "w8a16", "w16a16": "w8a16", "w8": "w8", "fp8": "w8"}
PREPARED |= {"w4": "w8", "nf4": "w8", "w4a8": "w8a8", "log4": "w8a8", "w8a8": "w8a8"}
"""For each pipeline that calibrates one that prepares programs in the same way."""


@cache
def model(network: str) -> tuple[Graph, list[Inputs]]:
    made = NETWORKS[network]()
    data = [made.inputs(seed) for seed in range(2)]
    return qir.from_jax(made.function, *data[0], batch="B"), data


@cache
def statistics(network: str, pipeline: str) -> qir.Statistics:
    graph, data = model(network)
    return qir.calibrate(graph, data, pipeline)


def known(network: str, pipeline: str) -> qir.Statistics | None:
    return statistics(network, PREPARED[pipeline]) if pipeline in PREPARED else None


def saved(graph: Graph, seen: qir.Statistics, folder: Path) -> tuple[Graph, qir.Statistics]:
    """What comes back of files."""
    qir.save(graph, folder / "program.qir")
    seen.save(folder / "statistics.npz")
    return qir.load(folder / "program.qir"), qir.Statistics.load(folder / "statistics.npz")


def all_prefixes(network: str, pipeline: str, folder: Path) -> None:
    state, _ = model(network)
    seen = known(network, pipeline) or qir.Statistics()
    steps = Pipeline.parse(pipeline).steps
    whole = qir.optimize(state, pipeline, statistics=seen)
    for place, step in enumerate(steps):
        again, read = saved(state, seen, folder)
        assert qir.optimize(again, Pipeline(steps[place:]), statistics=read) == whole, step
        context = Context()
        state = qir.optimize(state, Pipeline((step,)), statistics=seen, context=context)
        seen = context.statistics
    assert state == whole


@pytest.mark.parametrize(
    ("network", "pipeline"),
    [
        pytest.param(network, pipeline, marks=[pytest.mark.slow] * (network != "mlp"))
        for network, pipelines in (("mlp", WHOLE), ("cnn", ["w8a8", "w8"]), ("transformer", WHOLE))
        for pipeline in pipelines
    ],
)
def test_every_prefix_goes_on_to_the_program_of_the_whole(
    network: str, pipeline: str, tmp_path: Path
) -> None:
    all_prefixes(network, pipeline, tmp_path)


def test_what_a_step_leaves_of_attention_is_all_in_the_files(tmp_path: Path) -> None:
    """The step in which most is built, with all that was observed."""
    graph, _ = model("transformer")
    steps = Pipeline.parse("w8a8").steps
    ends = [place for place, step in enumerate(steps, 1) if step.name == "split-outliers"]
    whole = qir.optimize(graph, "w8a8", statistics=known("transformer", "w8a8"))
    context = Context()
    first = qir.optimize(
        graph,
        Pipeline(steps[: ends[0]]),
        statistics=known("transformer", "w8a8"),
        context=context,
    )
    again, read = saved(first, context.statistics, tmp_path)
    assert qir.optimize(again, Pipeline(steps[ends[0] :]), statistics=read) == whole


@pytest.mark.parametrize("pipeline", PREPARED)
@pytest.mark.parametrize(
    "network", ["mlp", "cnn", pytest.param("transformer", marks=pytest.mark.slow)]
)
def test_statistics_give_the_program_that_data_gives(
    network: str, pipeline: str, tmp_path: Path
) -> None:
    graph, data = model(network)
    _, read = saved(graph, statistics(network, PREPARED[pipeline]), tmp_path)
    from_data = qir.quantize(graph, data, pipeline, accuracy_check=False)
    from_statistics = qir.quantize(graph, pipeline=pipeline, statistics=read)
    assert from_statistics == from_data
    assert from_statistics.accuracy is None
    assert any("accuracy was not measured" in told for told in from_statistics.diagnostics)
