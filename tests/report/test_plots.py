"""Plots: what is drawn, and that matplotlib is asked for where it is missing."""

import sys
from typing import cast

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.patches import StepPatch

import qir
from qir.__main__ import main
from qir.errors import QirError
from qir.numbers.interval import Interval
from qir.observe.histograms import Histogram, observe
from qir.observe.statistics import TensorStatistics
from qir.report.plots import SUFFIXES, drawing, histogram, save_plot

TEXT = """
graph @net(%x: f32[4]) {
  %w = const [1.0, 2.0, 3.0, 4.0] : f32[4]
  %y = mul(%x, %w) : f32[4]
  %q = quantize(%y) : i8[4]{scale=0.5}
  %z = dequantize(%q) : f32[4]
  %s = add(%y, %z) : f32[4]
  return %s
}"""


def test_a_histogram_counts_the_numbers_and_those_that_a_range_cuts_off():
    # Bins are 1/64 wide or less at 4 times 256 bins: no two of these share one.
    statistic = observe(np.array([0, 0, 1, 1, 1, 2, 3, -1], np.float32))
    (axes,) = histogram(statistic, "conv1", Interval.of(-0.5, 1.5)).axes
    bars = axes.patches[0]
    assert isinstance(bars, StepPatch)
    counts, edges = bars.get_data()[:2]
    assert counts.sum() == 8
    assert counts.max() == 3
    assert (edges[0] <= -1, edges[-1] >= 3) == (True, True)
    assert axes.get_title() == "%conv1, 8 numbers, 25.0% zeros, 37.50% outside of [-0.5, 1.5]"
    assert [np.asarray(line.get_xdata())[0] for line in axes.lines] == [-0.5, 1.5]


def test_a_range_that_reaches_further_cuts_nothing_off_and_is_in_the_picture():
    statistic = observe(np.array([-0.5, 0.25, 0.5], np.float32))
    (axes,) = histogram(statistic, "y", Interval.of(-0.5, 4)).axes
    assert "0.00% outside" in axes.get_title()
    assert axes.get_xlim()[1] == 4


def test_a_value_without_numbers_has_an_empty_histogram():
    (axes,) = histogram(Histogram.empty(), "x", Interval.of(0, 1)).axes
    assert axes.get_title() == "%x, 0 numbers"


def test_a_drawing_has_every_op_below_what_it_reads_and_no_constants():
    (axes,) = drawing(qir.parse(TEXT)).axes
    places = {text.get_text(): text for text in axes.texts if text.get_text()}
    assert places.keys() == {"mul\n%y", "quantize\n%q", "dequantize\n%z", "add\n%s", "return"}
    heights = [text.get_position()[1] for text in places.values()]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 5
    arrows = [text for text in axes.texts if not text.get_text()]
    assert len(arrows) == 5  # mul-quantize, mul-add, quantize-dequantize, dequantize-add, return
    boxes = {name: text.get_bbox_patch() for name, text in places.items()}
    coded = {name: box.get_edgecolor() for name, box in boxes.items() if box is not None}
    assert coded["mul\n%y"] == coded["add\n%s"] != coded["quantize\n%q"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_plot_gives_the_same_bytes(tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        save_plot(drawing(qir.parse(TEXT)), path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith({".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix])


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(
        QirError, match=r"expected a path ending in .svg or .png or .pdf, got .*jpg"
    ):
        save_plot(drawing(qir.parse(TEXT)), tmp_path / "a.jpg")


def test_the_command_draws_a_program(tmp_path, capsys):
    program, page = tmp_path / "net.qir", tmp_path / "net.svg"
    qir.save(qir.parse(TEXT), program)
    assert main(["summary", str(program), "--draw", str(page)]) == 0
    assert "%q" in page.read_text()
    capsys.readouterr()
    assert main(["summary", str(program), "--draw", str(tmp_path / "net.gif")]) == 1
    assert "summary: expected a path ending in .svg or .png or .pdf" in capsys.readouterr().err


def test_the_extra_is_named_where_matplotlib_is_missing(tmp_path, monkeypatch, capsys):
    for name in list(sys.modules):
        if name.startswith("matplotlib"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    program = tmp_path / "net.qir"
    qir.save(qir.parse(TEXT), program)
    assert main(["summary", str(program), "--draw", str(tmp_path / "a.svg")]) == 1
    assert "which is not installed; pip install 'qir-compiler[plot]'" in capsys.readouterr().err
    assert main(["summary", str(program)]) == 0


def test_what_was_seen_of_a_value_is_drawn_by_its_histogram():
    graph = qir.parse(TEXT)
    seen = qir.calibrate(graph, [np.ones(4, np.float32)], "calibrate")
    (axes,) = histogram(seen["x"], "x").axes
    assert axes.get_title() == "%x, 4 numbers, 0.0% zeros"
    with pytest.raises(QirError, match="expected a histogram of %x, got statistics without one"):
        histogram(TensorStatistics(), "x")


def test_only_a_graph_is_drawn():
    with pytest.raises(QirError, match=r"plot: expected a graph, got a str; qir\.load reads one"):
        drawing(cast(qir.Graph, "net.qir"))
