"""Statistics of a model: merged in any order to equal bytes, saved, read back and refused."""

import json
import zipfile
from functools import cache, reduce
from itertools import permutations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.observe.extremes import MOST_BATCHES, BatchExtremes
from qir.observe.statistics_file import INDEX, POOLS
from qir.ops import Dot, Relu
from qir.pipeline import Context
from qir.text.storage import write_arrays
from tests.models.small_networks import NETWORKS
from tests.models.transformers import Inputs


@cache
def model(network: str = "mlp") -> tuple[qir.Graph, list[Inputs]]:
    made = NETWORKS[network]()
    data = [made.inputs(seed) for seed in range(4)]
    return qir.from_jax(made.function, *data[0], batch="B"), data


@cache
def seen(network: str, *places: int) -> qir.Statistics:
    """The statistics of some of the batches."""
    graph, data = model(network)
    return qir.calibrate(graph, [data[place] for place in places])


def saved(statistics: qir.Statistics, path: Path) -> bytes:
    statistics.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("network", ["mlp", "transformer"])
def test_parts_merge_in_any_order_to_equal_bytes(network: str, tmp_path: Path) -> None:
    parts = [seen(network, 0), seen(network, 1, 2), seen(network, 3)]
    found = {
        saved(merged, tmp_path / "merged.npz")
        for first, second, third in permutations(parts)
        for merged in (first.merge(second).merge(third), first.merge(second.merge(third)))
    }
    assert len(found) == 1


def test_statistics_of_parts_are_those_of_the_whole_but_for_the_numbers_of_batches() -> None:
    whole = seen("mlp", 0, 1, 2, 3)
    merged = reduce(qir.Statistics.merge, [seen("mlp", 0), seen("mlp", 1), seen("mlp", 2, 3)])
    assert merged.batches == whole.batches == 4
    assert whole.keys() == merged.keys()
    for name, tensor in whole.items():
        assert tensor.histogram == merged[name].histogram
        moments = merged[name].moments
        assert (tensor.moments is None) == (moments is None)
        if tensor.moments is not None and moments is not None:
            assert np.array_equal(tensor.moments.means, moments.means)
            assert np.array_equal(tensor.moments.sums.words, moments.sums.words)
    graph, _ = model()
    for method in ("minmax", "mse", "entropy", "percentile"):
        recipe = f"fold, scores, calibrate(method={method}), ranges, quantize, integer"
        one, other = (qir.optimize(graph, recipe, statistics=each) for each in (whole, merged))
        assert one == other


@pytest.mark.parametrize("network", ["mlp", "transformer"])
def test_what_is_saved_is_read_back_and_shares_what_was_shared(
    network: str, tmp_path: Path
) -> None:
    statistics = seen(network, 0, 1)
    first = saved(statistics, tmp_path / "first.npz")
    read = qir.Statistics.load(tmp_path / "first.npz")
    assert read == statistics
    assert saved(read, tmp_path / "second.npz") == first
    distinct = {id(tensor.histogram) for tensor in statistics.values()}
    assert len({id(tensor.histogram) for tensor in read.values()}) <= len(distinct)


def test_merging_keeps_both_as_they_are() -> None:
    one, other = seen("mlp", 0), seen("mlp", 1)
    before = one.copy()
    merged = one.merge(other)
    assert one == before != merged


def test_quantizing_leaves_given_statistics_as_they_are() -> None:
    graph, _ = model("transformer")
    given = seen("transformer", 0, 1)
    before = given.copy()
    context = qir.Context()
    qir.quantize(graph, statistics=given, context=context)
    assert given == before
    assert len(context.statistics) > len(given)  # what smooth-quant made of it


def test_statistics_of_another_model_are_refused() -> None:
    graph, _ = model("mlp")
    with pytest.raises(QirError, match="got those of another model: it has other inputs"):
        qir.quantize(graph, statistics=seen("cnn", 0))
    tuned = graph.copy()
    kernel = next(node for node in tuned.nodes if node.op.name == "const")
    builder = tuned.before(kernel)
    kernel.output.replace_with(builder.const(kernel.output.array * np.float32(1.5)))
    tuned.erase(kernel)
    with pytest.raises(QirError, match="same ops and other weights"):
        qir.quantize(tuned, statistics=seen("mlp", 0))
    with pytest.raises(QirError, match="expected those of one model, got those of two"):
        seen("mlp", 0).merge(seen("cnn", 0))


def layers(count: int, seed: int = 0, width: int = 6) -> qir.Graph:
    """A network whose layers have the names of those of a deeper one."""
    rng = np.random.default_rng(seed)
    graph = qir.Graph("layers")
    x = graph.add_input("x", qir.TensorType((qir.Dim.named("B"), width), qir.DType.F32))
    builder = graph.at_end()
    for place in range(count):
        kernel = rng.normal(size=(width, width)).astype(np.float32)
        x = builder.emit(Dot(), x, builder.const(kernel, f"kernel{place}"), name=f"dense{place}")
        x = builder.emit(Relu(), x, name=f"relu{place}")
    graph.set_outputs([x])
    return graph


SAMPLES = [np.random.default_rng(7).normal(size=(4, 6)).astype(np.float32)]


def test_statistics_of_a_deeper_model_of_like_names_are_refused() -> None:
    """As of ResNet-34 for ResNet-18, all of whose names it has."""
    given = qir.calibrate(layers(3), SAMPLES)
    shallow = layers(2, seed=1)
    told = "got those of another model: they are of 'dense2', which it does not have, and of 1 more"
    with pytest.raises(QirError, match=told):
        qir.quantize(shallow, statistics=given)
    with pytest.raises(QirError, match=told):
        qir.quantize(qir.optimize(shallow, "fold"), statistics=given)
    prepared = qir.optimize(layers(3), "fold")
    integer = qir.quantize(layers(3), statistics=given)
    assert qir.quantize(prepared, statistics=given) == integer


def test_a_program_without_values_that_were_observed_is_refused_with_the_remedy() -> None:
    graph = qir.parse(
        "graph @f(%x: f32[B,6]) { %a = relu(%x) : f32[B,6] %b = relu(%a) : f32[B,6]"
        " %c = transpose(%b) {permutation = [0, 1]} : f32[B,6] %y = tanh(%c) : f32[B,6] return %y }"
    )
    given = qir.calibrate(graph, SAMPLES, "calibrate")
    partial = graph.copy()
    tanh = partial.value("y").node
    assert tanh is not None
    tanh.set_input(0, partial.value("a"))
    for name in ("c", "b"):
        unused = partial.value(name).node
        assert unused is not None
        partial.erase(unused)
    with pytest.raises(QirError, match=r"of 'b', .* give the program that was calibrated"):
        qir.quantize(partial, statistics=given)
    recipe = "canonicalize, calibrate, quantize"  # which takes values out by itself
    assert qir.quantize(graph, pipeline=recipe, statistics=given) == qir.quantize(
        graph, SAMPLES, recipe
    )


def test_a_context_of_another_model_is_not_taken_for_that_of_this_one() -> None:
    context = Context()
    qir.quantize(layers(3), SAMPLES, context=context, accuracy_check=False)
    for other in (layers(2, seed=1), layers(3, seed=1)):
        with pytest.raises(QirError, match="got those of another model"):
            qir.quantize(other, context=context)
    other = layers(2, seed=1)
    again = qir.quantize(other, SAMPLES, context=context)
    assert again == qir.quantize(other, SAMPLES)
    seen = qir.calibrate(other, SAMPLES)
    for name in context.statistics.keys() - seen.keys():  # of what equalize has scaled
        del context.statistics[name]
    assert context.statistics == seen


def test_imported_names_may_be_any_text(tmp_path: Path) -> None:
    """Such as those of values that passes make, which begin with a %."""
    graph = qir.parse(
        """graph @f(%x: f32[B,6] of "%x") {
          %a = relu(%x) : f32[B,6] of "%2"
          %b = relu(%a) : f32[B,6] of "%y.q"
          %y = logistic(%b) : f32[B,6] of ["a \\"b\\"", ""]
          return %y
        }"""
    )
    given = qir.calibrate(graph, SAMPLES, "calibrate")  # which keeps the second relu
    given.save(tmp_path / "seen.npz")
    read = qir.Statistics.load(tmp_path / "seen.npz")
    assert list(given) == ["%%x", "%%2", "%%y.q", 'a "b"', ""]
    assert read == given
    assert qir.quantize(graph, statistics=read) == qir.quantize(graph, SAMPLES)


def test_samples_of_another_model_tell_nothing_of_this_one() -> None:
    context = Context()
    qir.quantize(layers(2), SAMPLES, "w8-dynamic", context=context)
    other = qir.quantize(layers(2, width=5), pipeline="w8-dynamic", context=context)
    assert other.accuracy is None


@pytest.mark.parametrize(("given", "told"), [({}, "a dict"), ("seen.npz", "a str")])
def test_what_are_no_statistics_is_told(given: Any, told: str) -> None:
    graph, _ = model("mlp")
    with pytest.raises(QirError, match=f"expected what qir.calibrate returns, got {told}; "):
        qir.quantize(graph, statistics=given)
    with pytest.raises(QirError, match=f"expected what qir.calibrate returns, got {told}; "):
        seen("mlp", 0).merge(given)


def test_statistics_in_place_of_data_are_told_where_they_go() -> None:
    with pytest.raises(QirError, match="got a Statistics; statistics are given by statistics="):
        qir.quantize(layers(2), qir.calibrate(layers(2), SAMPLES))


def test_a_missing_value_is_told_by_name() -> None:
    graph, _ = model("mlp")
    partial = seen("mlp", 0).copy()
    name = next(iter(partial))
    del partial[name]
    with pytest.raises(QirError, match=f"expected data, or statistics of %{name}; those given"):
        qir.quantize(graph, statistics=partial)


def test_values_that_passes_made_count_only_in_the_program_that_was_observed() -> None:
    graph, data = model("transformer")
    given = qir.calibrate(graph, data[:1], "w8a16")
    with pytest.raises(QirError, match="or of the model prepared by another pipeline"):
        qir.quantize(graph, statistics=given)


def test_pipelines_that_do_not_calibrate_are_refused() -> None:
    graph, data = model("mlp")
    with pytest.raises(QirError, match="expected a pipeline with the pass calibrate, got 'w8-dyn"):
        qir.calibrate(graph, data, "w8-dynamic")


def rewritten(path: Path, change: dict[str, object], drop: str = "") -> Path:
    """A copy of a file with other facts in its index."""
    with zipfile.ZipFile(path) as archive:
        arrays = {
            name: np.lib.format.read_array(archive.open(f"{name}.npy")) for name in (INDEX, *POOLS)
        }
    index = json.loads(arrays[INDEX].tobytes()) | change
    arrays[INDEX] = np.frombuffer(json.dumps(index).encode(), np.uint8)
    arrays.pop(drop, None)
    with path.with_name("changed.npz").open("wb") as file:
        write_arrays(file, arrays)
    return path.with_name("changed.npz")


@pytest.mark.parametrize(
    ("change", "drop", "expected"),
    [
        ({"format": "qir statistics 9"}, "", "expected the format 'qir statistics 1', got"),
        ({"parts": [], "tensors": {}}, "", "expected 0 numbers of int64, got"),
        ({"parts": [["Picture", [], []]]}, "", "no kind of statistics 'Picture'"),
        ({"parts": [["Histogram", [0.0, 1.0, 0, 4096], [[-1]]]]}, "", "expected sizes, got [-1]"),
        ({"parts": [["Histogram", [0.0, 1.0, 0, 4096], [[10**12]]]]}, "", "is damaged, or no file"),
        ({}, "uint32", "There is no item named 'uint32.npy'"),
    ],
)
def test_damaged_files_are_told_in_a_sentence(
    change: dict[str, object], drop: str, expected: str, tmp_path: Path
) -> None:
    seen("mlp", 0).save(tmp_path / "whole.npz")
    with pytest.raises(QirError, match=r"^statistics: ") as error:
        qir.Statistics.load(rewritten(tmp_path / "whole.npz", change, drop))
    assert expected in str(error.value)


def test_files_of_something_else_are_told(tmp_path: Path) -> None:
    with pytest.raises(QirError, match=r"does not exist; qir\.calibrate makes statistics"):
        qir.Statistics.load(tmp_path / "none.npz")
    np.savez(tmp_path / "samples.npz", x=np.ones(3))
    with pytest.raises(QirError, match=r"samples\.npz is damaged, or no file of statistics"):
        qir.Statistics.load(tmp_path / "samples.npz")
    whole = saved(seen("mlp", 0), tmp_path / "whole.npz")
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(QirError, match=r"half\.npz is damaged"):
        qir.Statistics.load(tmp_path / "half.npz")


def test_extremes_of_batches_merge_by_their_numbers_and_stay_few() -> None:
    rng = np.random.default_rng(0)

    def part(numbers: range) -> BatchExtremes:
        lows = rng.normal(size=len(numbers))
        return BatchExtremes.of(zip(numbers, lows, lows + 1, strict=True))

    parts = [part(range(900)), part(range(800, 1500)), part(range(300, 1400)), part(range(0))]
    outcomes = []
    for order in permutations(parts):
        merged = reduce(BatchExtremes.merge, order)
        assert len(merged.numbers) == MOST_BATCHES
        assert merged.numbers[-1] == 1499
        outcomes.append((merged.minimum.tobytes(), merged.maximum.tobytes()))
    assert len(set(outcomes)) == 1


def test_only_statistics_are_merged():
    with pytest.raises(QirError, match=r"expected what qir\.calibrate returns, got a str"):
        qir.Statistics().merge(cast(Any, "monday.npz"))


def test_only_statistics_of_tensors_are_entered():
    with pytest.raises(QirError, match="expected TensorStatistics of 'x', got an int"):
        qir.Statistics()["x"] = cast(Any, 5)
