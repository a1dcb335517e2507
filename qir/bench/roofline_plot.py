"""The roofline of a program as a picture: a page of SVG that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10, sqrt

from qir.bench.roofline import OpBound, Roofline

WIDTH, HEIGHT = 900, 600
MARGIN = 70
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Of kernels, in the order in which they appear (Okabe and Ito, Color Universal Design, 2008)."""
WHOLE_AREA = 10_000
"""Square pixels of a circle for an op that takes all of the time."""


@dataclass(frozen=True)
class _Axes:
    """Logarithmic axes, from one power of ten to another."""

    x: tuple[int, int]
    y: tuple[int, int]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Returns the pixel of a point."""
        parts = [
            (log10(value) - low) / (high - low)
            for value, (low, high) in zip((x, y), (self.x, self.y), strict=True)
        ]
        return (
            MARGIN + parts[0] * (WIDTH - 2 * MARGIN),
            HEIGHT - MARGIN - parts[1] * (HEIGHT - 2 * MARGIN),
        )


def picture(roofline: Roofline) -> str:
    """Returns an SVG page: rate by operations a byte, both logarithmic, below the ceilings.

    Each op that multiplies is a circle whose area is its share of the time; a program that shows
    the page tells its figures when it is pointed at. Ceilings are those of the most threads.

    Args:
        roofline: The figures.
    """
    ops = [op for op in roofline.ops if op.gops and op.moved_bytes]
    best = roofline.ceilings[max(roofline.ceilings)]
    slowest, fastest = best.bandwidth(best.reading[-1][0]), best.bandwidth(0)
    intensities = [_intensity(op) for op in ops]
    axes = _Axes(
        _powers([*intensities, best.gops * 1e9 / slowest]),
        _powers([*(op.gops for op in ops), best.gops]),
    )
    kernels = list(dict.fromkeys(_kernel(op) for op in ops))
    color = {kernel: COLORS[number % len(COLORS)] for number, kernel in enumerate(kernels)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 24, roofline.summary, "middle"),
        _text(WIDTH / 2, HEIGHT - 20, "operations a byte", "middle"),
        f'<g transform="rotate(-90 20 {HEIGHT / 2})">{_text(20, HEIGHT / 2, "GOPS", "middle")}</g>',
        *_grid(axes),
        *_ceiling(axes, lambda x: min(best.gops, x * slowest / 1e9), "memory"),
        *_ceiling(axes, lambda x: min(best.gops, x * fastest / 1e9), "cache"),
        _text(
            MARGIN + 8,
            axes.place(10.0 ** axes.x[0], best.gops)[1] - 8,
            f"compute: {best.gops:.0f} GOPS in registers ({best.name}), threads: {best.threads}",
            "start",
        ),
    ]
    # The largest lie below the others.
    for op in sorted(ops, key=lambda op: -op.seconds):
        x, y = axes.place(_intensity(op), op.gops)
        radius = max(sqrt(WHOLE_AREA * op.seconds / roofline.seconds), 2)
        told = (
            f"{' + '.join(op.ops)} %{op.values[-1]}: {1e6 * op.seconds:.1f} us, "
            f"{op.seconds / roofline.seconds:.1%}, {op.gops:.1f} GOPS, limit: {op.limit}"
        )
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{color[_kernel(op)]}" '
            f'fill-opacity="0.5" stroke="{color[_kernel(op)]}"><title>{escape(told)}</title>'
            "</circle>"
        )
    for number, kernel in enumerate(kernels):
        y = HEIGHT - MARGIN - 12 - 18 * number
        parts.append(
            f'<circle cx="{WIDTH - MARGIN - 110}" cy="{y - 4}" r="5" fill="{color[kernel]}"/>'
        )
        parts.append(_text(WIDTH - MARGIN - 98, y, kernel, "start"))
    return "\n".join([*parts, "</svg>", ""])


def _intensity(op: OpBound) -> float:
    return 2 * op.multiply_adds / op.moved_bytes


def _kernel(op: OpBound) -> str:
    return ", ".join(op.kernels)


def _powers(values: Sequence[float]) -> tuple[int, int]:
    """Returns the powers of ten between which values lie."""
    low, high = floor(log10(min(values))), ceil(log10(max(values)) + 0.1)
    return low, max(high, low + 1)


def _grid(axes: _Axes) -> Iterator[str]:
    for power in range(axes.x[0], axes.x[1] + 1):
        x, bottom = axes.place(10.0**power, 10.0 ** axes.y[0])
        _, top = axes.place(10.0**power, 10.0 ** axes.y[1])
        yield _line([(x, bottom), (x, top)], "#ddd")
        yield _text(x, bottom + 18, f"{10.0**power:g}", "middle")
    for power in range(axes.y[0], axes.y[1] + 1):
        left, y = axes.place(10.0 ** axes.x[0], 10.0**power)
        right, _ = axes.place(10.0 ** axes.x[1], 10.0**power)
        yield _line([(left, y), (right, y)], "#ddd")
        yield _text(left - 8, y + 4, f"{10.0**power:g}", "end")


def _ceiling(axes: _Axes, rate: Callable[[float], float], name: str) -> Iterator[str]:
    """Draws a ceiling over the whole width, from where it leaves the lower edge."""
    steps = [10 ** (axes.x[0] + (axes.x[1] - axes.x[0]) * part / 400) for part in range(401)]
    seen = [(x, rate(x)) for x in steps if rate(x) >= 10.0 ** axes.y[0]]
    if seen:
        points = [axes.place(x, y) for x, y in seen]
        yield _line(points, "#555")
        yield _text(points[0][0] + 8, points[0][1] + 12, name, "start")


def _line(points: Sequence[tuple[float, float]], color: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
