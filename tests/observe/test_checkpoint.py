"""A calibration that is interrupted goes on to the bytes of one that is not."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.observe import checkpoint
from tests.layout import ROOT
from tests.models.small_networks import NETWORKS
from tests.models.transformers import Inputs


@cache
def model(network: str = "mlp", batches: int = 12) -> tuple[qir.Graph, list[Inputs]]:
    made = NETWORKS[network]()
    data = [made.inputs(seed) for seed in range(batches)]
    return qir.from_jax(made.function, *data[0], batch="B"), data


def saved(statistics: qir.Statistics, folder: Path) -> bytes:
    statistics.save(folder / "statistics.npz")
    return (folder / "statistics.npz").read_bytes()


class Interrupted:
    """Data that can be read again; one reading ends early, and none follows it."""

    def __init__(self, data: Sequence[Any], after: int, reading: int = 1) -> None:
        self.data, self.after, self.left = data, after, reading

    def __iter__(self) -> Iterator[Any]:
        self.left -= 1
        assert self.left >= 0
        if self.left:
            yield from self.data
            return
        yield from self.data[: self.after]
        if self.after < len(self.data):
            raise KeyboardInterrupt


@pytest.mark.parametrize("every", [1, 3, 100])
def test_interrupts_while_data_is_read_change_nothing(every: int, tmp_path: Path) -> None:
    graph, data = model()
    expected = saved(qir.calibrate(graph, data), tmp_path)
    points = random.Random(every)
    path = tmp_path / "checkpoint.npz"
    for after in sorted(points.randrange(len(data)) for _ in range(4)):
        with pytest.raises(KeyboardInterrupt):
            qir.calibrate(graph, Interrupted(data, after), checkpoint=path, every=every)
        assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    found = qir.calibrate(graph, data, checkpoint=path, every=every)
    assert saved(found, tmp_path) == expected
    assert saved(qir.Statistics.load(path), tmp_path) == expected


def test_interrupts_while_the_file_is_written_leave_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, data = model()
    expected = saved(qir.calibrate(graph, data), tmp_path)
    path = tmp_path / "checkpoint.npz"
    written = 0

    def failing(source: Path, target: Path) -> None:
        nonlocal written
        written += 1
        if written % 3 == 0:
            raise KeyboardInterrupt
        replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", failing)
    found = None
    while found is None and written < 20:
        try:
            found = qir.calibrate(graph, data, checkpoint=path, every=2)
        except KeyboardInterrupt:
            assert qir.Statistics.load(path).batches % 2 == 0
    monkeypatch.undo()
    assert found is not None
    assert saved(found, tmp_path) == expected


@cache
def masked() -> tuple[qir.Graph, list[Inputs]]:
    """Attention with a mask of -100, which clip-scores reads the data for."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, 16)).astype(np.float32)
    mask = np.triu(np.full((8, 8), -100, np.float32), 1)

    def attend(x: jax.Array) -> jax.Array:
        return jax.nn.softmax((x @ weights) @ x.swapaxes(1, 2) / 4 + mask) @ x

    data: Any = [rng.normal(size=(4, 8, 16)).astype(np.float32) for _ in range(6)]
    return qir.from_jax(attend, data[0], batch="B"), data


def test_masked_scores_of_parts_merge_though_each_part_has_a_bound_of_its_own(
    tmp_path: Path,
) -> None:
    graph, data = masked()
    parts = [qir.calibrate(graph, data[start : start + 2]) for start in (0, 2, 4)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert saved(parts[2].merge(parts[0].merge(parts[1])), tmp_path) == saved(merged, tmp_path)
    whole = qir.quantize(graph, data, accuracy_check=False)
    assert qir.quantize(graph, statistics=merged) == whole
    bounds = {seen.scores.least for part in parts for seen in part.values() if seen.scores}
    assert len(bounds) > 1


def test_masked_scores_are_looked_at_once(tmp_path: Path) -> None:
    graph, data = masked()
    whole = qir.quantize(graph, data, accuracy_check=False)
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(KeyboardInterrupt):  # the second time that the data is read
        qir.calibrate(graph, Interrupted(data, 4, reading=2), checkpoint=path, every=2)
    assert any(tensor.scores is not None for tensor in qir.Statistics.load(path).values())
    found = qir.calibrate(graph, Interrupted(data, 6, reading=1), checkpoint=path)
    assert saved(found, tmp_path) == saved(qir.calibrate(graph, data), tmp_path)
    assert qir.quantize(graph, statistics=found) == whole


def test_a_finished_calibration_only_reads_the_data_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, data = model()
    path = tmp_path / "checkpoint.npz"
    first = qir.calibrate(graph, data, checkpoint=path)
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(checkpoint, "write", None)
    assert qir.calibrate(graph, data, checkpoint=path) == first
    assert path.stat().st_mtime_ns == before


def test_more_data_is_counted_behind_what_was_counted(tmp_path: Path) -> None:
    graph, data = model()
    path = tmp_path / "checkpoint.npz"
    qir.calibrate(graph, data[:5], checkpoint=path)
    assert qir.calibrate(graph, data, checkpoint=path) == qir.calibrate(graph, data)


def test_more_data_is_no_reason_to_clip_masked_scores_as_before(tmp_path: Path) -> None:
    """Rows of the further data may lie below all that the bound is of."""
    graph, data = masked()
    path = tmp_path / "checkpoint.npz"
    qir.calibrate(graph, data[:3], checkpoint=path)
    before = path.read_bytes()
    told = "whose masked scores are clipped as in 3 batches, got data of "
    with pytest.raises(QirError, match=told + "more; take the file away"):
        qir.calibrate(graph, data, checkpoint=path)
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        qir.calibrate(graph, Interrupted(data, 3, reading=2), checkpoint=path, every=1)
    with pytest.raises(QirError, match="as in 6 batches, got data of 5; take the file away"):
        qir.calibrate(graph, data[:5], checkpoint=path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    graph, data = model()
    path = tmp_path / "checkpoint.npz"
    qir.calibrate(graph, data[:5], checkpoint=path)
    refused = rf"expected {path} to be that of this calibration, "
    with pytest.raises(QirError, match=refused + "got one of other data"):
        qir.calibrate(graph, data[::-1], checkpoint=path)
    with pytest.raises(QirError, match=refused + "which counts 5 batches, got data of 3"):
        qir.calibrate(graph, data[:3], checkpoint=path)
    recipe = "fold, calibrate(method=mse, bins=8192)"
    with pytest.raises(QirError, match=refused + "got one of another pipeline"):
        qir.calibrate(graph, data, recipe, checkpoint=path)
    other, samples = model("cnn", 2)
    with pytest.raises(QirError, match=refused + "got one of another model"):
        qir.calibrate(other, samples, checkpoint=path)
    every: Any
    for every in (0, 1.5, "2"):
        with pytest.raises(QirError, match=f"expected every to be at least 1 batch, got {every!r}"):
            qir.calibrate(graph, data, checkpoint=path, every=every)
    qir.calibrate(graph, data[:2]).save(path)
    with pytest.raises(QirError, match="got statistics alone; choose another path"):
        qir.calibrate(graph, data, checkpoint=path)


CHILD = """
import sys
import qir
from tests.observe.test_checkpoint import model
graph, data = model("cnn", 80)
class Told:
    def __iter__(self):
        for number, batch in enumerate(data):
            print(number, flush=True)
            yield batch
found = qir.calibrate(graph, Told(), checkpoint=sys.argv[1], every=2)
found.save(sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_calibration_goes_on_to_equal_bytes(tmp_path: Path) -> None:
    """20 random kill points, each behind the one before."""
    graph, data = model("cnn", 80)
    expected = saved(qir.calibrate(graph, data), tmp_path)
    points = random.Random(7)
    path, end = tmp_path / "checkpoint.npz", tmp_path / "end.npz"
    command = [sys.executable, "-c", CHILD, str(path), str(end)]
    reached = []
    for _ in range(20):
        counted = qir.Statistics.load(path).batches if path.exists() else 0
        reached.append(counted)
        last = min(counted + points.randrange(7), len(data) - 1)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if int(line) >= last:
                    break
            time.sleep(points.uniform(0, 0.03))
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
        assert not end.exists()
    assert reached[-1] > reached[0]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert end.read_bytes() == expected


def test_a_damaged_checkpoint_and_no_number_of_batches_are_sentences(tmp_path: Path) -> None:
    graph, data = model(batches=2)
    path = tmp_path / "seen.npz"
    qir.calibrate(graph, data, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(QirError, match=r"damaged.*\n  take the file away to begin anew, or choose"):
        qir.calibrate(graph, data, checkpoint=path)
    wrong: list[Any] = ["2", 1.5]
    for every in wrong:
        with pytest.raises(QirError, match="expected every to be at least 1 batch, got"):
            qir.calibrate(graph, data, checkpoint=path, every=every)
