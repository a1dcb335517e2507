"""Whether ops that do not come with QIR hold to what they say of themselves, on numbers at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from qir.analysis.equivalence import Interpreter
from qir.errors import PassError
from qir.ir import Graph, Node
from qir.numbers.interval import EVERYTHING, Interval
from qir.ops.op import Op
from qir.ops.orders import inverse
from qir.ops.rules import Accumulate
from qir.ops.traits import Moves, StoredOperand
from qir.types import Array

SLACK = 1e-9
"""How far float64 results may be from what a trait says, relative to the largest magnitude."""

Arrays: TypeAlias = Sequence[Array]


def check_traits(graph: Graph, inputs: Arrays, interpreter: Interpreter) -> None:
    """Holds ops of others to their traits: on codes what they store, on plain numbers all others.

    Those of QIR are held to theirs by its tests. A trait that says too much shows as a program that
    computes something else, or as ranges that clip, far from the op that is at fault.

    Args:
        graph: The program.
        inputs: Arrays for its inputs.
        interpreter: The reference interpreter.

    Raises:
        PassError: An op does not do what one of its traits says.
    """
    foreign = [node for node in graph.nodes if not type(node.op).__module__.startswith("qir.")]
    if not foreign:
        return
    arrays = interpreter(graph, *inputs, precision=np.float64)
    for node in foreign:
        if node.regions:
            continue
        operands, results = (
            [arrays[value] for value in part] for part in (node.inputs, node.outputs)
        )
        if not all(array.size and np.isfinite(array).all() for array in (*operands, *results)):
            continue
        for broken in broken_traits(node, operands, results):
            raise PassError(f"check: {node.op.name}: {broken}", [node.place()])


def broken_traits(node: Node, operands: Arrays, results: Arrays) -> Iterator[str]:
    """Says which traits of an op do not hold.

    Args:
        node: The application of the op.
        operands: The numbers of its operands, finite.
        results: Those of its results, floats computed in float64.
    """
    if any(value.type.quant is not None for value in (*node.inputs, *node.outputs)):
        yield from _stored(node, operands, results)
        return
    yield from _interval(node, operands, results)
    yield from _moves(node, operands, results)
    yield from _told_apart(node, operands, results)
    yield from _is_idle(node, operands, results)
    yield from _carried(node, operands, results)
    yield from _turned(node, operands, results)


def _stored(node: Node, operands: Arrays, results: Arrays) -> Iterator[str]:
    known = [
        StoredOperand(
            value.type, (int(array.min()), int(array.max())), array if value.is_constant else None
        )
        for value, array in zip(node.inputs, operands, strict=True)
        if value.type.dtype.is_integer
    ]
    if len(known) < len(operands) or not node.outputs[0].type.dtype.is_integer:
        return
    if (said := node.op.stored(known, node.outputs[0].type)) is None:
        return
    least, most = int(results[0].min()), int(results[0].max())
    if not said[0] <= least <= most <= said[1]:
        yield f"stored gives {list(said)}, but the results are in {[least, most]}"


def _interval(node: Node, operands: Arrays, results: Arrays) -> Iterator[str]:
    if isinstance(node.op.quant, Accumulate) or len(results) != 1 or results[0].dtype.kind != "f":
        return
    pairs = zip(node.inputs, operands, strict=True)
    known = [
        Interval.point(array)
        if value.is_constant
        else Interval.of(array.min(), array.max())
        if value.type.is_float
        else EVERYTHING
        for value, array in pairs
    ]
    said = node.op.interval(*known)
    (low, high), (least, most) = said.bounds, (results[0].min(), results[0].max())
    slack = SLACK * max(abs(least), abs(most))
    if low - slack <= least and most <= high + slack:
        return
    of = ", ".join(str(each.hull()) for each in known)
    seen = Interval.of(least, most)
    yield f"interval gives {said.hull()} for operands in {of}, but the results are in {seen}"


def _moves(node: Node, operands: Arrays, results: Arrays) -> Iterator[str]:
    moves = node.op.moves
    if moves is Moves.NONE:
        return
    sources = operands[:1] if moves.by_place else operands
    there = np.concatenate([array.reshape(-1) for array in sources])
    if not all(np.isin(result, there).all() for result in results):
        owner = "the first operand does" if moves.by_place else "its operands do"
        yield f"moves is {moves.name}, but the results hold numbers that {owner} not have"
    elif moves.keeps_all and not np.isin(there, results[0]).all():
        yield f"moves is {moves.name}, but the result lacks numbers of the first operand"
    elif moves is Moves.ORDER and not np.array_equal(
        np.sort(results[0], axis=None), np.sort(there)
    ):
        yield "moves is ORDER, but the result does not hold each number of the operand once"


def _told_apart(node: Node, operands: Arrays, results: Arrays) -> Iterator[str]:
    said, bounds = node.op.told_apart(), node.op.clip_bounds()
    if said == EVERYTHING or len(operands) != 1:
        return
    inside = np.clip(operands[0], *said.bounds)
    if bounds is not None and not np.array_equal(results[0], np.clip(operands[0], *bounds)):
        yield f"clip_bounds gives {bounds[0]:g} and {bounds[1]:g}, but it does not clip to these"
    elif not _same(_evaluate(node.op)(inside), results):
        yield f"told_apart gives {said}, but it tells numbers outside of that apart"


def _is_idle(node: Node, operands: Arrays, results: Arrays) -> Iterator[str]:
    if not operands or len(results) != 1:
        return
    types, made = ([value.type for value in part] for part in (node.inputs, node.outputs))
    if made[0].element != types[0].element or made[0].size != types[0].size:
        return
    if node.op.is_idle(types, made) and not np.array_equal(
        results[0].reshape(-1), operands[0].reshape(-1)
    ):
        yield "is_idle holds, but the result is not the operand"


def _carried(node: Node, operands: Arrays, results: Arrays) -> Iterator[str]:
    types, made = ([value.type for value in part] for part in (node.inputs, node.outputs))
    # Integers that leave their type are stored as others.
    before = _evaluate(node.op)(*operands)
    for operand, axis, becomes, result in node.op.carried(types, made):
        array = operands[operand]
        count = array.shape[axis]
        if results[result].shape[becomes] != count:
            yield f"carried takes axis {axis} to one of another size"
            return
        if count < 2:
            continue
        # Other numbers in the first place along the axis leave the results of the others.
        other = array.copy()
        first = (slice(None),) * axis + (0,)
        other[first] = np.flip(array.take(1, axis))
        changed = _evaluate(node.op)(*operands[:operand], other, *operands[operand + 1 :])
        kept = range(1, count)
        if not _same([changed[result].take(kept, becomes)], [before[result].take(kept, becomes)]):
            yield (
                f"carried takes axis {axis} of operand {operand} to axis {becomes}, but a place "
                "along it decides results at other places"
            )
            return


def _turned(node: Node, operands: Arrays, results: Arrays) -> Iterator[str]:
    broadcasts = node.op.elementwise or node.op.broadcasts
    rank = (results if broadcasts else operands)[0].ndim if operands else 0
    wide = list(operands)
    for index, array in enumerate(wide[: 2 if node.op.broadcasts else None] if broadcasts else ()):
        wide[index] = array.reshape((1,) * (rank - array.ndim) + array.shape)
    for order in ((*range(1, rank), 0), (*range(rank - 2), rank - 1, rank - 2)) if rank > 1 else ():
        change = node.op.turned(order, [value.type for value in node.inputs])
        if change is None:
            continue
        parts = [
            array.transpose(inverse(order)) if index in change.operands else array
            for index, array in enumerate(wide)
        ]
        found = _evaluate(change.op)(*parts)
        if not _same(
            [each.transpose(turns) for each, turns in zip(found, change.orders, strict=True)],
            results,
        ):
            yield f"turned gives {change.op} for axes in the order {list(order)}, which differs"
            return


def _evaluate(op: Op) -> Callable[..., list[Array]]:
    def evaluate(*operands: Array) -> list[Array]:
        with np.errstate(all="ignore"):
            found = op.evaluate(*operands)
        return [np.asarray(each) for each in (found if isinstance(found, tuple) else (found,))]

    return evaluate


def _same(found: Arrays, expected: Arrays) -> bool:
    return all(
        one.shape == other.shape
        and np.allclose(one, other, rtol=SLACK, atol=SLACK * np.max(np.abs(other), initial=0))
        for one, other in zip(found, expected, strict=True)
    )
