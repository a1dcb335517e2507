"""Convolutions: which kernel computes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.pattern import Match, Placement, pattern
from qir.backends.native.patterns import dense, winograd
from qir.backends.native.patterns.depthwise import depthwise
from qir.backends.native.patterns.epilogue import matched_epilogue
from qir.ir import Node
from qir.ops import Conv

READ = 8
"""Products in the time that one byte of weights takes from memory, besides products of others:
they overlap. A network's weights don't stay in the caches from one call to the next. With 4, one
thread computes ResNet-50 2 % faster, and parameters take 1.7 times the memory."""
MOVED = {1: (0, 0), 2: (90, 50), 4: (140, 80)}
"""Products in the time in which one channel of a patch is transformed, and one column of its sums,
by places that a patch gives in each direction: measured on layers of 64 channels."""


@pattern(Conv)
def convolution(op: Conv, node: Node, target: InstructionSet) -> Match | str:
    """A convolution over all channels, over groups of them, or of each alone."""
    epilogue = matched_epilogue(node.output)
    if op.groups > 1 and node.inputs[1].type.shape[-2] == 1:
        return depthwise(op, node, epilogue)
    direct = dense.convolution(op, node, epilogue)
    if winograd.unfit(op, node, target):
        return direct
    # Weights are packed once for all sizes of a named dimension: they must not depend on it.
    sizes = [size if isinstance(size, int) else 1 for size in node.output.type.shape]
    weights = node.inputs[1].type.known_shape
    costs = {tile: cost(tile, sizes, weights) for tile in MOVED}
    reasons: list[str] = []
    for tile in sorted(costs, key=lambda tile: costs[tile]):
        if tile == 1 and isinstance(direct, Match):
            return _labelled(direct, "; ".join(["direct", *reasons]))
        found = winograd.winograd(op, node, epilogue, target, tile) if tile > 1 else direct
        if isinstance(found, Match):
            return found
        reasons.append(f"not by patches of {tile} x {tile}: {found}")
    return reasons[0]


def cost(tile: int, sizes: Sequence[int], weights: Sequence[int]) -> int:
    """Returns about how long a convolution with a window of 3 x 3 takes, in products.

    Args:
        tile: Places that a patch gives in each direction; 1 for direct sums.
        sizes: Of the result: [batch, height, width, channels], or with depth before height.
        weights: Sizes of the kernel: [3, 3, channels, columns], or with depth before.
    """
    batch, *depth, height, width, _ = sizes
    *window, channels, columns = weights
    positions = (tile + 2) ** 2
    patches = -(-height // tile) * -(-width // tile)
    # Each depth sums taps of its own: only the patches of one share weights at a time.
    together = patches if depth else patches * batch
    pairs = prod(window[:-2]) * channels * columns
    transformed, summed = MOVED[tile]
    size = 1 if tile == 1 else 2
    products = together * (positions * pairs + transformed * channels + summed * columns)
    return products + READ * size * positions * pairs


def _labelled(match: Match, label: str) -> Match:
    """Adds to the labels of a match's steps."""

    def write(placement: Placement) -> None:
        steps = placement.plan.steps
        first = len(steps)
        match.write(placement)
        steps[first:] = [replace(step, label=f"{step.label} ({label})") for step in steps[first:]]

    return replace(match, write=write)
