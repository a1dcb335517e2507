"""`qir bench --ops`: the times of kernels, what bounds them, and the roofline of a program."""

import re

import numpy as np
import pytest

pytest.importorskip("llvmlite")
pytest.importorskip("matplotlib")

from matplotlib.collections import PathCollection

import qir
from qir.__main__ import main
from qir.backends.cpu.target import host_target
from qir.backends.xla.profile import profile
from qir.bench.profile import Ceilings
from qir.bench.roofline import OpBound, Roofline, roofline
from qir.bench.roofline_plot import picture
from qir.observe.batches import random_inputs
from qir.ops import Const, Return
from tests.backends.native.test_plan import network
from tests.benchmarks.models import MODELS
from tests.benchmarks.vision import prepare

pytestmark = pytest.mark.skipif(host_target() is None, reason="no kernels for this machine")


@pytest.fixture(scope="module")
def digits():
    return prepare(MODELS["digits"]).graph


def test_the_command_prints_every_op_that_has_a_kernel(digits, tmp_path, capsys):
    path = tmp_path / "digits.qir"
    qir.save(digits, path)
    assert main(["bench", str(path), "--ops", "--rounds", "2"]) == 0
    printed = capsys.readouterr().out
    lines = printed.split(f"kernels of {path}\n")[1].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("op "))
    end = next(index for index, line in enumerate(lines) if line.startswith("outside of kernels"))
    rows = lines[start + 1 : end]
    nodes = [node for node in digits.nodes if not isinstance(node.op, Const | Return)]
    ops = [name for row in rows for name in re.split(r"\s{2,}", row)[0].split(" + ")]
    assert sorted(ops) == sorted(node.op.name for node in nodes)
    assert [row.split("%")[1].split()[0] for row in rows][-1] == "head"
    # Times are rounded to 0.1 us and shares to 0.1 %.
    columns = [re.search(r" (\d+\.\d) +(\d+\.\d)%", line) for line in [*rows, lines[end]]]
    found = np.array([[float(each) for each in column.groups()] for column in columns if column])
    assert len(found) == len(rows) + 1
    seconds, shares = found.sum(axis=0)
    assert shares == pytest.approx(100, abs=0.05 * len(found))
    whole = re.search(
        r": (\d+\.\d+) ms, .* of the peak; at least .* by the roofline", lines[end + 1]
    )
    assert whole is not None
    assert seconds == pytest.approx(1000 * float(whole[1]), abs=0.05 * len(found) + 0.5)


def timed(name, graph, inputs, rounds):
    times = profile(graph, inputs, rounds)
    assert times is not None
    return roofline(name, graph, inputs, times)


def test_the_times_of_kernels_and_their_bounds(digits):
    found = timed("digits", digits, random_inputs(digits), rounds=2)
    assert found is not None
    assert sum(op.seconds for op in found.ops) < found.seconds
    costs = {op.value: op for op in qir.summary(digits).ops}
    assert found.values == costs.keys()
    for op in found.ops:
        assert op.multiply_adds == sum(costs[value].multiply_adds for value in op.values)
        assert op.parameter_bytes == sum(costs[value].parameter_bytes for value in op.values)
        assert 0 < op.least < np.inf
        assert op.limits["compute"] <= 2 * op.multiply_adds / op.peak / 1e9
    assert found.gops > 0
    assert found.least == sum(op.least for op in found.ops)


def test_ops_without_a_kernel_are_not_in_the_table():
    graph = network()
    found = timed("network", graph, [np.zeros((2, 6, 6, 16), np.int8)], rounds=1)
    assert found is not None
    assert found.values == {"a", "y", "s", "f", "q", "p"}
    alone = qir.parse("graph @g(%x: f32[3]) {\n  %y = exp(%x) : f32[3]\n  return %y\n}")
    assert timed("alone", alone, [np.zeros(3, np.float32)], rounds=1) is None


def test_the_table():
    limits = {"compute": 2e-3, "memory": 1e-3, "cache": 0.0}
    sums = OpBound(
        ("conv", "requantize"), ("a", "b"), "net.py:3", ("Dense",), 4e-3, 10**8, 100, 1000, limits,
        100.0,
    )  # fmt: skip
    nothing = OpBound(("reshape",), ("c",), "", (), 0.0, 0, 0, 0, dict.fromkeys(limits, 0.0), 100)
    ceilings = Ceilings("avx2", 2, 100.0, ((2**14, 9e9), (2**27, 2e9)))
    lines = str(Roofline("net", (sums, nothing), 5e-3, {2: ceilings})).splitlines()
    assert (
        lines[1]
        == "2 threads: 100.0 GOPS in registers (avx2); GB/s read: 9 of 16 KiB, 2 of 128 MiB"
    )
    assert [re.split(r"\s{2,}", line) for line in lines[3:6]] == [
        ["conv + requantize", "%b", "Dense", "4000.0", "80.0%", "50.0", "50%", "1,000", "0.0",
         "compute", "50%", "net.py:3"],
        ["reshape", "%c", "0.0", "0.0%", "0"],
        ["outside of kernels", "1000.0", "20.0%"],
    ]  # fmt: skip
    assert lines[6] == (
        "net: 5.000 ms, 40.0 GOPS, 40% of the peak; "
        "at least 2.000 ms by the roofline, 40% of the time"
    )


def bound(name, kernel, seconds, macs, moved, peak=100.0):
    limits = {"compute": 2 * macs / peak / 1e9, "memory": 0.0, "cache": moved / 9e9}
    return OpBound((name,), (name,), "", (kernel,), seconds, macs, 0, moved, limits, peak)


def test_the_picture():
    ops = (
        bound("conv", "Dense", 4e-3, 10**8, 10**6),
        bound("dot<", "Dense", 1e-3, 10**6, 10**6),
        bound("max_pool", "Pool", 1e-4, 0, 10**6),
    )
    ceilings = Ceilings("avx2", 2, 100.0, ((2**14, 9e9), (2**27, 2e9)))
    (axes,) = picture(Roofline("net", ops, 6e-3, {2: ceilings})).axes
    circles = axes.collections[-1]
    assert isinstance(circles, PathCollection)
    places = dict(zip(("conv", "dot<"), np.asarray(circles.get_offsets()), strict=True))
    # 10^8 multiply-accumulates a MB are 200 operations a byte, and 50 GOPS in 4 ms.
    assert places["conv"] == pytest.approx([200, 50])
    assert places["dot<"] == pytest.approx([2, 2])
    assert (axes.get_xlim(), axes.get_ylim()) == ((1, 1e3), (1, 1e3))
    areas = circles.get_sizes()
    assert areas[0] / areas[1] == pytest.approx(4)
    memory, cache = (np.asarray(line.get_xydata()) for line in axes.lines)
    assert memory[0] == pytest.approx([1, 2])
    assert cache[0] == pytest.approx([1, 9])
    assert memory[:, 1].max() == cache[:, 1].max() == 100
    assert [text.get_text() for text in axes.texts] == [
        "%conv: 4000 us, 67%", "%dot<: 1000 us, 17%"
    ]  # fmt: skip


def test_the_command_draws(digits, tmp_path, capsys):
    path, page = tmp_path / "digits.qir", tmp_path / "page.svg"
    qir.save(digits, path)
    line = ["bench", str(path), "--rounds", "1", "--roofline", str(page)]
    assert main(line) == 0
    assert f"kernels of {path}" in capsys.readouterr().out
    assert "%conv2.add.q" in page.read_text()
    assert main(["bench", str(path), *line[1:]]) == 1
    assert "bench: expected one program for --roofline, got 2" in capsys.readouterr().err
