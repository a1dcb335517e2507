"""agree-roundings: the same integers by every rounding mode, proved for all that can occur."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qir.analysis.claims import bounded
from qir.analysis.properties import QUANTIZED
from qir.analysis.reach import StoredReach
from qir.errors import QirError
from qir.ir import Graph, Node
from qir.numbers.rounding import rounding_mode
from qir.ops import Requantize
from qir.ops.agreement import RoundingComparison, compare
from qir.passes.shared.scale_search import ScaleSearch, find_layer, other_roundings
from qir.pipeline import Context, Effect, Pass, register

MOST_ULPS = 2**14
"""At most 2^-9 of a scale: a result of 8 bits moves by half a step, so by one after rounding."""


@register
class AgreeRoundings(Pass):
    """Makes requantizes give the same integers in several rounding modes, and certifies it.

    A requantize to 8 bits is a step function of at most 255 thresholds, so whether two modes agree
    on every accumulator that can occur is decided by a few hundred evaluations (see
    `qir.numbers.agreement`). Where they don't, the float32 scale of that channel's weights moves
    by the fewest ulps that make them agree; no stored number changes, and biases take over the
    scale. What agrees says so in `agrees`, which the verifier proves again; a diagnostic names what
    does not, and why.

    Weights are moved only where nothing but requantizes reads their sums, and those whose
    multipliers are written out are only decided about.

    Attributes:
        roundings: The modes; each requantize is held against those that are not its own.
        ulps: By how many units in the last place a scale may move; 0 only certifies.
    """

    roundings: tuple[str, ...] = ("fixed31", "f32_rne")
    ulps: int = 4096

    name = "agree-roundings"
    requires = (QUANTIZED,)
    whole_program = True

    def check(self) -> None:
        for name in self.roundings:
            rounding_mode(name)
        if not 0 <= self.ulps <= MOST_ULPS:
            raise QirError(f"ulps: expected 0 to {MOST_ULPS}, got {self.ulps}")

    @property
    def effect(self) -> Effect:
        """Exact, unless scales may move: then a requantize's result may move by one step."""
        return "within_1lsb" if self.ulps else "exact"

    def run(self, graph: Graph, context: Context) -> None:
        stored = StoredReach.of(graph)
        obstacles: dict[Node, str] = {}
        moved: list[int] = []
        for node in list(graph.walk()):
            layer = find_layer(node)
            if layer is None:
                continue
            obstacle = layer.obstacle or ("" if self.ulps else "no scale may move")
            if not obstacle:
                search = ScaleSearch(layer, stored, self.roundings, self.ulps)
                obstacle = search.run()
                if not obstacle:
                    moved += np.abs(search.ulps[search.ulps != 0]).tolist()
                    search.apply()
            obstacles |= dict.fromkeys(layer.readers, obstacle)
        context.diagnostics += self.certify(graph, stored, obstacles)
        if moved:
            context.diagnostics.append(
                f"agree-roundings: scales moved: {len(moved)}, by {max(moved)} ulp or less"
            )

    def certify(
        self, graph: Graph, stored: StoredReach, obstacles: dict[Node, str]
    ) -> Iterator[str]:
        """Puts certificates on the requantizes; yields what to tell about them."""
        agreeing = channels = 0
        for node in graph.walk():
            if not isinstance(node.op, Requantize):
                continue
            certified: list[str] = []
            for rounding in other_roundings(node.op, self.roundings):
                compared = _compared(node, node.op, stored, rounding)
                channels += 1 if isinstance(compared, str) else compared.found.size
                if isinstance(compared, RoundingComparison):
                    agreeing += int(np.count_nonzero(~compared.found))
                    if not np.any(compared.found):
                        certified.append(rounding)
                        continue
                why = obstacles.get(node, "its operand is no sum with constant weights")
                yield f"agree-roundings: %{node.output.name} {compared}; {why}"
            node.op = replace(node.op, agrees=tuple(certified))
        yield f"agree-roundings: {agreeing} of {channels} channels agree"


def _compared(
    node: Node, op: Requantize, stored: StoredReach, rounding: str
) -> RoundingComparison | str:
    if op.to.storage.bits > 8:
        return f"is not held against {rounding}, having more than 8 bits"
    try:
        return compare(op, bounded(node.inputs[0], stored), rounding)
    except QirError as error:
        return error.message
