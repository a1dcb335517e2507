"""Convolutions: which kernel computes one."""

from __future__ import annotations

from dataclasses import replace

from qir.backends.xla.cpu.cover import Cover, Region, covers
from qir.backends.xla.cpu.covers import dense
from qir.backends.xla.cpu.covers.depthwise import depthwise
from qir.backends.xla.cpu.covers.winograd import winograd
from qir.backends.xla.cpu.target import Target
from qir.ir import Node
from qir.ops import Conv

PATCHES = 32
"""Least patches that share transformed weights, which are 3.6 times as large: a core multiplies
with that many in the time in which it reads one weight from memory, and half of it is left."""
SAVING = 1.3
"""By how much the transform must lessen the products, to pay for itself."""


@covers(Conv)
def convolution(op: Conv, node: Node, target: Target) -> Cover | str:
    """A convolution over all channels, over groups of them, or of each alone."""
    end = dense.ending(node.output)
    if op.groups > 1 and node.inputs[1].type.shape[-2] == 1:
        return depthwise(op, node, end, target)
    direct, transformed = (rule(op, node, end, target) for rule in (dense.convolution, winograd))
    if isinstance(direct, str):
        return transformed if isinstance(transformed, Cover) else direct
    if isinstance(transformed, str):
        return direct
    # Weights are packed once for all sizes of a named dimension: they must not depend on it.
    sizes = (size if isinstance(size, int) else 1 for size in node.output.type.shape)
    reason = costly_transform(tuple(sizes))
    if not reason:
        return transformed

    def write(region: Region) -> None:
        steps = region.plan.steps
        first = len(steps)
        direct.write(region)
        steps[first:] = [replace(step, label=f"{step.label} ({reason})") for step in steps[first:]]

    return replace(direct, write=write)


def costly_transform(shape: tuple[int, ...]) -> str:
    """Returns why the direct sums of a window of 3 x 3 are as fast; nothing where they are not.

    Args:
        shape: Of the result: [batch, height, width, channels], or with depth before height.
    """
    batch, *_, height, width, _ = shape
    patches = -(-height // 2) * -(-width // 2)
    saving = 9 * height * width / (16 * patches)
    # Each depth sums taps of its own: only the patches of one share weights at a time.
    together = patches * (batch if len(shape) == 4 else 1)
    if together < PATCHES:
        return f"direct: {together} patches of 2 x 2 share weights, {PATCHES} pay"
    if saving < SAVING:
        return f"direct: a transform saves {saving:.2f} times, {SAVING} pays"
    return ""
