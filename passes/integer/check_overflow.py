"""check-overflow: proves that every integer an op forms fits its type, or refuses the program."""

from __future__ import annotations

import numpy as np

from qir.analysis.reach import StoredReach, Sums, exact_sums
from qir.errors import PassError
from qir.ir import Graph, Node, Value
from qir.numbers.reach import Reach
from qir.ops.rules import ExactSum, FixedCode, Rescale
from qir.pipeline import Context, Pass, register


@register
class CheckOverflow(Pass):
    """Proves for every op on codes that no integer it forms can overflow, or refuses the program.

    What operands can store follows from their codes' bounds, narrowed by clamps, tables, constants
    and clipping; what is summed, from the weights of each output channel. The arithmetic is exact,
    and calibrated ranges play no part. Integers may wrap on the way: modulo 2^32 only the complete
    sum counts. The graph stays as it is.
    """

    name = "check-overflow"
    whole_program = True

    def run(self, graph: Graph, context: Context) -> None:
        stored = StoredReach.of(graph)
        errors = []
        for node in graph.walk():
            added = stored.sums.get(node)
            sums = added if added is not None else formed(node, stored)
            if sums is not None and np.any(sums.excess > 0):
                errors.append(f"check-overflow: {_describe(node, sums)}\n  {node.place()}")
        if errors:
            raise PassError("\n".join(errors))


def _describe(node: Node, sums: Sums) -> str:
    excess = sums.excess
    worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
    place, count = f"%{node.outputs[0].name}", ""
    if excess.ndim:
        index = [int(axis) for axis in worst]
        place = f"channel {index[0] if len(index) == 1 else index} of {place}"
        count = f"; channels that overflow: {np.count_nonzero(excess > 0)} of {excess.size}"
    (low, high), least, greatest = sums.limit, sums.least[worst], sums.greatest[worst]
    return (
        f"{node.op.name}: {place}: expected integers in [{low}, {high}], "
        f"got up to [{least}, {greatest}]{count}"
    )


def formed(node: Node, stored: StoredReach) -> Sums | None:
    """Returns the integers that a node which stores no exact sums forms on the way.

    Args:
        node: A node.
        stored: What its operands can store.

    Returns:
        None where the node forms none, as it moves or looks up stored numbers or is no integer op.

    Raises:
        PassError: The node's op does not say what it forms.
    """
    if not any(value.type.quant is not None for value in node.outputs):
        return None
    if isinstance(node.op.quant, ExactSum):
        return exact_sums(node, stored)
    steps = [_steps(value, stored) for value in node.inputs]
    integers = node.op.formed(steps, [value.type for value in node.inputs])
    if integers is not None:
        return Sums.formed(integers)
    if isinstance(node.op.quant, Rescale | FixedCode):
        raise PassError(
            f"check-overflow: no bound is known for {node.op.name}; its class says which integers "
            "it forms, in formed(self, steps, operands)",
            [node.place()],
        )
    return None


def _steps(value: Value, stored: StoredReach) -> Reach:
    code = value.type.quant
    return stored[value] if code is None or code.step_bounds is None else stored.steps(value)
