"""Plots by matplotlib, which the extra `plot` brings along.

They are figures of their own, without pyplot: nothing is kept open, no window or setting is needed.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from qir.errors import QirError, counted
from qir.ir import Graph, Node
from qir.ir.graph import expect_graph
from qir.numbers.interval import Interval
from qir.observe.histograms import Histogram
from qir.observe.statistics import TensorStatistics
from qir.ops import Const
from qir.text.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf")
"""What the names of files of plots end in."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Colors that all can tell apart (Okabe and Ito, Color Universal Design, 2008)."""
BARS = 256
"""Most bars of a histogram on either side of 0."""


def check_plots() -> None:
    """Raises QirError where matplotlib is missing, for those who work long before they draw."""
    new_plot(1, 1)


def new_plot(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure and its axes, which are empty.

    Args:
        width: Width of the figure in inches.
        height: Its height.

    Raises:
        QirError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QirError(
            "plot: expected matplotlib, which is not installed; pip install 'qir-compiler[plot]'"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def save_plot(figure: Figure, path: Path) -> None:
    """Writes a figure into a file; the same figure gives the same bytes.

    Args:
        figure: The figure.
        path: The file; its suffix, one of SUFFIXES, says in which format.

    Raises:
        QirError: There is no format of that suffix, or the file can't be written.
    """
    from matplotlib import rc_context

    if path.suffix not in SUFFIXES:
        raise QirError(f"plot: expected a path ending in {' or '.join(SUFFIXES)}, got {path}")
    page, form = BytesIO(), path.suffix[1:]
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    # Text stays text, so that pages can be searched.
    with rc_context({"svg.hashsalt": "qir", "svg.fonttype": "none"}):
        figure.savefig(page, format=form, metadata=dated.get(form, {}))
    write_atomically({path: lambda file: file.write(page.getvalue())})


def histogram(
    statistic: Histogram | TensorStatistics, name: str = "", cut: Interval | None = None
) -> Figure:
    """Draws what calibration saw of a value: how often numbers occur, on a logarithmic scale.

    Args:
        statistic: The counts, or all that was seen of the value, as `qir.Statistics` have it.
        name: The name of the value.
        cut: The range that its code has, such as `Value.range`: what lies beyond is shaded, and the
            title says how much that is, but for what shares a bin with a bound.

    Raises:
        QirError: matplotlib is not installed, or nothing was counted.
    """
    if isinstance(statistic, TensorStatistics):
        if statistic.histogram is None:
            raise QirError(f"plot: expected a histogram of %{name}, got statistics without one")
        statistic = statistic.histogram
    figure, axes = new_plot(8, 4)
    coarse = statistic.coarsen(min(statistic.bins, BARS))
    title = [f"%{name}"] if name else []
    title.append(counted(statistic.count, "number"))
    if statistic.count:
        axes.set_yscale("log")
        axes.stairs(coarse.counts, coarse.edges, fill=True, color=COLORS[0])
        title.append(f"{statistic.zeros / statistic.count:.1%} zeros")
    if cut is not None and statistic.count:
        low, high = cut.bounds
        edges, counts = statistic.edges, statistic.counts
        outside = int(counts[edges[1:] < low].sum() + counts[edges[:-1] > high].sum())
        title.append(f"{outside / statistic.count:.2%} outside of {cut}")
        left, right = axes.get_xlim()
        ends = min(left, low), max(right, high)
        for bound, end in zip(cut.bounds, ends, strict=True):
            axes.axvline(bound, color=COLORS[1], linestyle="--")
            axes.axvspan(bound, end, color=COLORS[1], alpha=0.15)
        axes.set_xlim(*ends)
    axes.set_title(", ".join(title))
    axes.set_xlabel("number")
    axes.set_ylabel("count")
    return figure


def drawing(graph: Graph) -> Figure:
    """Draws a program from its inputs, at the top, to its return: blue what is on codes.

    Constants are left out, and what is inside of regions. An op stands below all that it reads;
    curved lines pass over some ops.

    Args:
        graph: The program.

    Raises:
        QirError: matplotlib is not installed, or what is given is no graph.
    """
    expect_graph(graph, "plot")
    import networkx as nx  # See Graph.to_networkx.

    whole = graph.to_networkx()
    shown = whole.subgraph([node for node in whole if not isinstance(node.op, Const)])
    rows = list(nx.topological_generations(shown))
    widest = max(map(len, rows), default=1)
    figure, axes = new_plot(2.4 * widest + 0.4, 0.6 * len(rows) + 0.4)
    places = {
        node: (2.4 * (column - (len(row) - 1) / 2), -0.6 * number)
        for number, row in enumerate(rows)
        for column, node in enumerate(row)
    }
    for source, target in dict.fromkeys(shown.edges()):
        passes = places[source][1] - places[target][1] > 0.7
        axes.annotate(
            "",
            xy=places[target],
            xytext=places[source],
            arrowprops={
                "arrowstyle": "->",
                "color": "0.5",
                "shrinkA": 8,
                "shrinkB": 8,
                "connectionstyle": f"arc3,rad={0.3 if passes else 0}",
            },
        )
    for node, (x, y) in places.items():
        color = COLORS[0] if _is_coded(node) else COLORS[1]
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": color}
        axes.text(x, y, _label(node), ha="center", va="center", fontsize=7, bbox=box)
    axes.set_xlim(-1.2 * widest, 1.2 * widest)
    axes.set_ylim(-0.6 * len(rows), 0.6)
    axes.set_title(f"@{graph.name}")
    axes.set_axis_off()
    return figure


def _is_coded(node: Node) -> bool:
    return any(value.type.quant is not None for value in (*node.inputs, *node.outputs))


def _label(node: Node) -> str:
    names = ", ".join(f"%{value.name}" for value in node.outputs)
    return f"{node.op.name}\n{names}" if names else node.op.name
