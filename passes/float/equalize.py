"""equalize: the weights of consecutive layers get the same range in each channel between them."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

from qir.analysis.properties import FLOAT, FLOAT_OPS, Property
from qir.errors import QirError
from qir.ir import Graph, Value
from qir.ir.names import Inheritance
from qir.numbers.interval import Interval
from qir.passes.shared.chain_noise import ChainRows
from qir.passes.shared.channel_scaling import Scaling
from qir.passes.shared.layer_chains import LayerPath, chains, find_pair
from qir.passes.shared.observed_parts import channel_extremes, keep_parts, known_part
from qir.pipeline import Context, Pass, register
from qir.pipeline.rewrite import Skip
from qir.types import Array

LEAST_GAIN = 0.5
"""Decibels that a chain must gain to be equalized, on average over rows less its standard error."""


@register
class Equalize(Pass):
    """Equalizes the ranges of weights across layers (arXiv:1906.04721, section 4.1).

    A relu commutes with a positive factor, so in `W2 relu(W1 x + b1)` each channel between the
    layers can be scaled by any s: `W1 / s, b1 / s, W2 * s`. With s = sqrt(r1 * r2) / r2, where r1
    and r2 are the largest weights of the channel in either layer, both become sqrt(r1 * r2), and
    one scale for all weights of a layer loses less. The same holds through leaky_relu, pooling,
    mean, padding with 0 and what moves numbers, and for depthwise convolutions as either layer, but
    not through an op that is not homogeneous (relu6, silu, gelu), nor where another op reads a
    value between. Chains of layers take several rounds to settle.

    Exact in real numbers; the weights are rounded once. The values between are scaled: they stand
    for no imported value any more, and lose their ranges, or with `when=better` have theirs scaled.

    Where weights have a scale for each channel, it helps as far as it evens out the channels of the
    activations and of what the second layer sums, and harms as often. So `when=better` equalizes
    only the chains of layers that gain by it. Each that calibrate found uneven is computed with
    rounded weights and activations, as it is and equalized, on rows of the calibration data that
    are held out: the codes have the ranges of other rows. Of fewer than 16 rows none are held out,
    and chains of more than four million weights are left as they are.

    Attributes:
        iterations: The most rounds over all pairs of layers.
        when: `always`, or where it is `better`, for which calibrate must stand before it in the
            same pipeline and have had data.
    """

    iterations: int = 20
    when: Literal["always", "better"] = "always"

    name = "equalize"

    def check(self) -> None:
        if self.iterations < 1:
            raise QirError(f"iterations: expected at least 1, got {self.iterations}")

    @property
    def needs(self) -> tuple[Property, ...]:
        """What must hold before: nothing has a code, or the layers that are paired have none."""
        return (FLOAT,) if self.when == "always" else (FLOAT_OPS,)

    def run(self, graph: Graph, context: Context) -> None:
        names = Inheritance(graph)
        paths: list[LayerPath] = []
        skips = Counter[str]()
        for node in graph.nodes:
            found = find_pair(node)
            if isinstance(found, Skip):
                skips[found.reason] += 1
            elif found is not None:
                paths.append(found)
        if self.when == "better":
            self._try(paths, graph, context)
        else:
            scaling = Scaling.of(paths)
            rounds = scaling.settle(self.iterations)
            _apply(scaling, graph)
            context.diagnostics += [
                f"equalize: pairs of layers: {len(paths)}, rounds: {rounds}",
                *(f"equalize: layers not paired: {count}, {why}" for why, count in skips.items()),
            ]
        names.settle()

    def _try(self, paths: list[LayerPath], graph: Graph, context: Context) -> None:
        """Equalizes the chains that gain by it, of those that calibrate found uneven."""
        left: list[float] = []
        for chain in chains(path for path in paths if path.is_by_rows):
            rows = context.layer_rows.get(chain[0].first.inputs[0])
            extremes = _extremes(chain, context)
            if rows is None or len(rows) < 2 or extremes is None:
                continue
            scaling = Scaling.of(chain)
            computed = ChainRows.computed(chain, rows, extremes)
            before = computed.decibels(scaling)
            scaling.settle(self.iterations)
            after = computed.decibels(scaling)
            gains = after - before
            doubt = float(np.std(gains, ddof=1)) / len(gains) ** 0.5
            if gains.mean() - doubt < LEAST_GAIN:
                left.append(float(gains.mean()))
                continue
            where = "rows held out" if computed.held_out else "rows of the data"
            start, end = chain[0].first.inputs[0].name, chain[-1].second.output.name
            context.diagnostics.append(
                f"equalize: {len(scaling.layers)} layers from %{start} to %{end}: "
                f"{before.mean():.1f} dB on {len(gains)} {where}, equalized {after.mean():.1f} dB"
            )
            _apply_ranged(scaling, graph, context)
        context.layer_rows = {}
        if left:
            context.diagnostics.append(
                f"equalize: uneven chains of layers that stay as they are: {len(left)}; measured, "
                f"the best of them changes by {max(left):+.1f} dB, and without doubt "
                f"{LEAST_GAIN:+} dB are asked for"
            )


def _extremes(chain: tuple[LayerPath, ...], context: Context) -> list[tuple[Array, Array]] | None:
    """Returns the extremes of the channels that each layer reads; None where not all are known."""
    start = chain[0].first.inputs[0]
    if start.observed is None:
        return None
    low, high = (np.array([bound]) for bound in start.observed.bounds)
    found = [(low, high)]
    for path in chain:
        known = [channel_extremes(value, context.statistics) for value in path.values]
        if None in known or any(value.range != value.observed for value in path.values):
            return None
        assert known[0] is not None
        found.append(known[0])
    return found


def _apply(scaling: Scaling, graph: Graph) -> None:
    for layer in scaling.layers:
        layer.rewrite(graph)
    for pair in scaling.pairs:
        if pair.is_scaled:
            for value in pair.path.values:
                value.observed, value.origin = None, ()


def _apply_ranged(scaling: Scaling, graph: Graph, context: Context) -> None:
    """Scales what is known of the values between as well."""
    known = []
    for pair in scaling.pairs:
        for value, route in zip(pair.path.values, pair.path.routes, strict=True):
            assert route is not None
            factors = pair.first.divisors.ravel()[route]
            observed = _scaled_range(value, factors, context)
            parts = {
                kind: part.divided(factors)
                for kind in ("channels", "moments")
                if (part := known_part(value, context.statistics, kind)) is not None
            }
            if pair.is_scaled:
                known.append((value, observed, parts))
    _apply(scaling, graph)
    for value, observed, parts in known:
        # Under its old name statistics of the unscaled value stay, for who uses them again.
        graph.name_after(value, f"{value.name}.equalized")
        value.observed = observed
        keep_parts(value, context.statistics, parts)


def _scaled_range(value: Value, factors: Array, context: Context) -> Interval:
    """Returns the range of a value whose channels are divided, as much of it as was kept before."""
    extremes = channel_extremes(value, context.statistics)
    assert extremes is not None
    assert value.observed is not None
    (low, high), kept = extremes, value.observed.bounds
    seen = low.min(), high.max()
    scaled = (low / factors).min(), (high / factors).max()
    return Interval.of(
        *(
            float(new * (bound / old)) if old else float(new)
            for bound, old, new in zip(kept, seen, scaled, strict=True)
        )
    )
