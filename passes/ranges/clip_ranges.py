"""clip-ranges: ranges are cut where the outputs of the products that read them lose less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qir.analysis.properties import FLOAT_OPS, RANGED
from qir.errors import PassError
from qir.ir import Graph, Node, Value
from qir.numbers.interval import Interval
from qir.passes.shared.codes import activation_code
from qir.passes.shared.layer_chains import is_layer
from qir.passes.shared.partial_sums import decibels
from qir.passes.shared.sampled_products import SampledProduct, sample_operands
from qir.pipeline import Context, Pass, register
from qir.types import Array, DType

SHARES = tuple(1 - 0.06 * step for step in range(1, 12))
"""Shares of the range that are tried, of both ends and of either one."""
FINER = (0.98, 1.02, 0.96, 1.04)
"""Shares of the best one that are tried then."""

LEAST_ROWS = 32
"""Rows that are to be there: half of them choose, the others confirm."""


@register
class ClipRanges(Pass):
    """Cuts the ranges of activations by the error of the outputs of the products that read them.

    A range that is cut clips few numbers and makes the steps of all others finer. Method `mse` of
    calibrate weighs both by the tensor's own numbers. What counts is what products make of them:
    here the sums of products are computed on sampled rows, of activations and weights rounded to 8
    bits, for ranges that shrink at both ends or at either (the output error of a layer as in
    AdaQuant, arXiv:2006.10518, by search in place of gradients). What relu or clip makes of a sum
    counts, not what they cut off.

    Of products that read one value each counts by the share of its error that is left. Half of the
    rows are those of the largest numbers, which a range clips first, each counted once, the others
    are drawn and stand for the rest. The rows of one half of the samples choose the range, those of
    the other have to confirm it.

    On data of no calibration networks of convolutions gain up to 1 dB; MiniLM, whose outliers are
    split off before, gains nothing (25.2 dB for 25.3). It needs data, and leaves values alone that
    other ops read too, and what is in loops.

    Attributes:
        gain: Decibels by which the error of the outputs must fall, on either half.
        weigh_rows: Whether the squared error of a row counts by the inverse of the square of its
            exact sums and that of the mean row: rows with massive activations decide alone
            otherwise. It is harmful where these carry the result, as in networks of convolutions.
        report: Whether the diagnostics say what was cut.
    """

    gain: float = 0.5
    weigh_rows: bool = False
    report: bool = False

    name = "clip-ranges"
    requires = (FLOAT_OPS, RANGED)
    whole_program = True
    keeps = "approximate"

    def check(self) -> None:
        if not 0 <= self.gain < np.inf:
            raise PassError(f"clip-ranges: expected a gain of at least 0 dB, got {self.gain}")

    def run(self, graph: Graph, context: Context) -> None:
        read = {value: list(value.users) for value in graph.values() if _is_cut(value)}
        samples = sample_operands(graph, list(read), context)
        if samples is None:
            if read:
                context.diagnostics.append(
                    "clip-ranges: ranges stay: expected data that can be read again"
                )
            return
        generator = np.random.default_rng(context.seed)
        for value, array in samples.items():
            products = [SampledProduct.of(node, array, generator) for node in read[value]]
            if any(
                min(np.bincount(product.places % 2, minlength=2)) < LEAST_ROWS // 2
                for product in products
            ):
                continue
            found = _chosen(value, products, self.gain, weigh_rows=self.weigh_rows)
            if found is not None:
                value.range, gain = found
                if self.report:
                    context.diagnostics.append(
                        f"clip-ranges: %{value.name}: {value.range}, {gain:.1f} dB"
                    )


def _is_cut(value: Value) -> bool:
    """Whether only layers read a value, and its range is its own."""
    users: Sequence[Node] = list(value.users)
    return (
        bool(users)
        and value.type.is_float
        and value.type.rank > 1
        and value.range is not None
        and all(is_layer(node) and node.inputs[0] is value for node in users)
        and (value.op is None or not value.op.moves.by_place)
    )


def _chosen(
    value: Value, products: Sequence[SampledProduct], least: float, *, weigh_rows: bool
) -> tuple[Interval, float] | None:
    """Returns the range with the least error and by how much it falls; None where it stays."""
    assert value.range is not None
    seen = value.range
    halves = [_Errors(products, half, weigh_rows=weigh_rows) for half in range(2)]
    before = [half.of(seen) for half in halves]
    best, error = seen, before[0]
    for around in (_coarse, _fine):
        for interval in around(best):
            found = halves[0].of(interval)
            if found < error:
                best, error = interval, found
    gain = min(decibels(whole, half.of(best)) for whole, half in zip(before, halves, strict=True))
    return (best, gain) if best != seen and gain >= least else None


def _coarse(seen: Interval) -> Iterator[Interval]:
    low, high = seen.bounds
    for share in SHARES:
        yield Interval.of(low * share, high * share)
        if low < 0 < high:
            yield Interval.of(low, high * share)
            yield Interval.of(low * share, high)


def _fine(best: Interval) -> Iterator[Interval]:
    low, high = best.bounds
    for share in FINER:
        yield Interval.of(low * share, high * share)


class _Errors:
    """The errors of products on the rows of every other sample.

    Args:
        products: The products.
        half: Those of even or of odd samples, 0 or 1.
        weigh_rows: As of the pass.
    """

    def __init__(self, products: Sequence[SampledProduct], half: int, *, weigh_rows: bool) -> None:
        chosen = [product.places % 2 == half for product in products]
        self.products = [
            (product, product.rows[rows]) for product, rows in zip(products, chosen, strict=True)
        ]
        self.exact = [product.sums(rows, product.weights) for product, rows in self.products]
        self.weights: list[Array] = []
        self.taken_in: list[Array] = []
        for product, rows, exact in zip(products, chosen, self.exact, strict=True):
            counts = product.counts[rows]
            energy = np.square(exact).sum(axis=1, dtype=np.float64)
            mean = (energy @ counts) / counts.sum()
            own = energy if weigh_rows else 0.0
            weights = counts / (own + mean + 1e-30)
            self.weights.append(weights)
            rounded = product.sums(product.rows[rows], product.rounded) - exact
            self.taken_in.append(weights @ rounded / weights.sum())
        self.whole: list[float] | None = None

    def of(self, interval: Interval) -> float:
        """Returns the error with codes of a range, in terms of that of the first one asked for.

        The mean error that rounding the weights makes is left out, which quantize has a bias take
        in. That which clipping makes counts: nothing else takes it in.
        """
        code = activation_code(interval, DType.I8)
        found = []
        for (product, rows), exact, weights, taken_in in zip(
            self.products, self.exact, self.weights, self.taken_in, strict=True
        ):
            error = product.sums(code.decode(code.encode(rows)).astype(np.float32), product.rounded)
            error -= exact + taken_in
            found.append(float((np.square(error).sum(axis=1, dtype=np.float64) * weights).sum()))
        if self.whole is None:
            self.whole = found
        pairs = [(part, most) for part, most in zip(found, self.whole, strict=True) if most > 0]
        return sum(part / most for part, most in pairs) / max(len(pairs), 1)
