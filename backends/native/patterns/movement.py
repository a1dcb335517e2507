"""Ops that move stored numbers: every one of them is a copy from strides to strides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.lookup import FlipKernel
from qir.backends.native.kernels.movement import OUTER, CopyKernel, TransposeKernel
from qir.backends.native.pattern import Match, Placement, pattern
from qir.backends.native.patterns.flat import TASK_ELEMENTS, TASKS, lies, passed, variables
from qir.backends.native.plan import BufferView
from qir.ir import Node, Value
from qir.ops import (
    Broadcast,
    Concat,
    Dequantize,
    Quantize,
    Recode,
    Reshape,
    ResizeNearest,
    Reverse,
    Slice,
    Split,
    Tile,
    Transpose,
)
from qir.types import DType


@dataclass(frozen=True)
class MovedAxis:
    """An axis of what is moved.

    Attributes:
        size: Its places.
        source: Bytes from one to the next where they are read.
        out: Bytes from one to the next where they are written.
    """

    size: int
    source: int
    out: int


def row_strides(shape: Sequence[int], element: int) -> list[int]:
    """Returns bytes from place to place along each axis of a tensor in row-major order."""
    return [element * prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _joined(axes: Sequence[MovedAxis]) -> list[MovedAxis]:
    """Drops axes of one place, and makes one of two that lie alike on both sides."""
    found: list[MovedAxis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        if found:
            above = found[-1]
            if (above.source, above.out) == (axis.source * axis.size, axis.out * axis.size):
                found[-1] = replace(axis, size=above.size * axis.size)
                continue
        found.append(axis)
    return found


def _outer(axes: Sequence[MovedAxis]) -> dict[str, int]:
    """Returns the parameters of the outer axes."""
    padded = [*[MovedAxis(1, 0, 0)] * (OUTER - len(axes)), *axes]
    return {
        f"{name}{index}": getattr(axis, name)
        for index, axis in enumerate(padded)
        for name in ("size", "source", "out")
    }


def move(
    placement: Placement,
    label: str,
    axes: Sequence[MovedAxis],
    element: int,
    x: BufferView,
    out: BufferView,
) -> None:
    """Adds the step that moves elements.

    Args:
        placement: Where to write.
        label: What it computes, for people.
        axes: The axes, the result's last one last.
        element: Bytes of an element, 1 or 4.
        x: Where the first element is read.
        out: Where it is written.
    """
    if 0 in [axis.size for axis in axes]:
        return
    found = _joined(axes)
    run = element
    if found and found[-1].source == found[-1].out == element:
        run *= found.pop().size
    elif found and found[-1].out == element:
        along = next((axis for axis in found if axis.source == element), None)
        if along is not None:
            _exchange(placement, label, found, along, element, x, out)
            return
    # A long innermost loop: two pixels of a resized row would hardly be one.
    inner = max(found[-2:], key=lambda axis: axis.size) if found else MovedAxis(1, 0, 0)
    found = [axis for axis in found if axis is not inner]
    outer = prod(axis.size for axis in found)
    wanted = task_count(outer * inner.size * max(run, 16), placement)
    block_outer = -(-outer // wanted)
    ranges = min(max(wanted // outer, 1), inner.size)
    block_inner = -(-inner.size // ranges)
    ranges = -(-inner.size // block_inner)
    runs = min(max(wanted // (outer * ranges), 1), max(run // TASK_ELEMENTS, 1))
    block_run = -(-run // (64 * runs)) * 64 if runs > 1 else run
    runs = -(-run // block_run)
    parameters = {
        **_outer(found),
        "outer": outer,
        "inner": inner.size,
        "run": run,
        "block_outer": block_outer,
        "block_inner": block_inner,
        "block_run": block_run,
        "ranges": ranges,
        "runs": runs,
        "source_inner": inner.source,
        "out_inner": inner.out,
    }
    tasks = -(-outer // block_outer) * ranges * runs
    placement.plan.step(label, CopyKernel(), parameters, {"x": x, "out": out}, tasks=tasks)


def task_count(bytes_: int, placement: Placement) -> int:
    """Returns how many tasks move some bytes."""
    return max(min(bytes_ // (2 * TASK_ELEMENTS), TASKS * placement.plan.threads), 1)


def _exchange(
    placement: Placement,
    label: str,
    axes: Sequence[MovedAxis],
    along: MovedAxis,
    element: int,
    x: BufferView,
    out: BufferView,
) -> None:
    across = axes[-1]
    others = [axis for axis in axes if axis is not along and axis is not across]
    outer = prod(axis.size for axis in others)
    wanted = task_count(outer * across.size * along.size * element, placement)
    tile = TransposeKernel(element).tile
    block = -(-along.size // (max(wanted // outer, 1) * tile)) * tile
    ranges = -(-along.size // block)
    parameters = {
        **_outer(others),
        "across": across.size,
        "along": along.size,
        "block": block,
        "ranges": ranges,
        "source_across": across.source,
        "out_along": along.out,
    }
    placement.plan.step(
        label, TransposeKernel(element), parameters, {"x": x, "out": out}, tasks=outer * ranges
    )


def unmovable(node: Node) -> str:
    """Returns why kernels don't move what a node moves; nothing where they do.

    Plain float32 is moved beside the casts alone: elsewhere XLA does it, at no more cost.
    """
    for value in (*node.inputs, *node.outputs):
        if value.type.quant is not None and value.type.dtype.numpy.itemsize in (1, 4):
            continue
        beside = [value.op, *(reader.op for output in node.outputs for reader, _ in output.uses)]
        if value.type.element is not DType.F32 or not any(
            isinstance(op, Quantize | Dequantize) for op in (*beside, node.inputs[0].op)
        ):
            return "not a code of 8 or 32 bits"
    return ""


def element_bytes(value: Value) -> int:
    """Returns the bytes of an element as it is stored."""
    return int(value.type.dtype.numpy.itemsize)


@dataclass(frozen=True, eq=False)
class Move:
    """One copy.

    Attributes:
        axes: The axes.
        x: What is read.
        source: Bytes before the first element that is.
        out: What is written.
        to: Bytes before the first element that is.
    """

    axes: Sequence[MovedAxis]
    x: Value
    source: int
    out: Value
    to: int = 0


def _copied(node: Node, rank: int, moves: Callable[[Placement], Iterable[Move]]) -> Match | str:
    """Returns a match of a node by copies of as many axes at most."""
    if reason := unmovable(node):
        return reason
    if rank > OUTER + 1:
        return "more axes than a kernel counts through"

    def write(placement: Placement) -> None:
        for each in moves(placement):
            x = lies(placement, each.x).further(each.source)
            out = placement.write(each.out).further(each.to)
            move(placement, each.out.name, each.axes, element_bytes(each.x), x, out)

    return Match((node,), variables(*node.inputs), write, rows_apart=True)


def _axes(sizes: Sequence[int], source: Sequence[int], out: Sequence[int]) -> list[MovedAxis]:
    return [MovedAxis(*numbers) for numbers in zip(sizes, source, out, strict=True)]


@pattern(Reshape)
def reshape(op: Reshape, node: Node, target: InstructionSet) -> Match | str:
    """The same bytes, in the same place where that can be."""
    return unmovable(node) or _same_bytes(node)


def _same_bytes(node: Node) -> Match:
    (x,) = node.inputs

    def write(placement: Placement) -> None:
        if not x.is_constant and placement.alias(node.output, x):
            return
        axis = MovedAxis(placement.bytes(x), 1, 1)
        move(
            placement, node.output.name, [axis], 1, lies(placement, x), placement.write(node.output)
        )

    return Match((node,), variables(x), write)


@pattern(Recode)
def recode(op: Recode, node: Node, target: InstructionSet) -> Match | str:
    """The same bytes, in the same place where that can be; or the highest bit of each turned."""
    (x,) = node.inputs
    if x.type.dtype.numpy.itemsize not in (1, 4):
        return "not integers of 8 or 32 bits"
    return passed(node, FlipKernel(), {}, {}) if op.offset(x.type) else _same_bytes(node)


@pattern(Transpose)
def transpose(op: Transpose, node: Node, target: InstructionSet) -> Match | str:
    """Strides in another order."""
    (x,) = node.inputs

    def moves(placement: Placement) -> Iterable[Move]:
        element = element_bytes(x)
        source, sizes = row_strides(placement.shape(x), element), placement.shape(node.output)
        turned = [source[axis] for axis in op.permutation]
        yield Move(_axes(sizes, turned, placement.strides(node.output)), x, 0, node.output)

    return _copied(node, len(op.permutation), moves)


@pattern(Broadcast)
def broadcast(op: Broadcast, node: Node, target: InstructionSet) -> Match | str:
    """Strides of 0."""
    (x,) = node.inputs

    def moves(placement: Placement) -> Iterable[Move]:
        element = element_bytes(x)
        shape, sizes = placement.shape(x), placement.shape(node.output)
        source = [0] * len(sizes)
        strides = row_strides(shape, element)
        for axis, size, stride in zip(op.placed(len(shape)), shape, strides, strict=True):
            source[axis] = 0 if size == 1 else stride
        yield Move(_axes(sizes, source, placement.strides(node.output)), x, 0, node.output)

    return _copied(node, node.output.type.rank, moves)


@pattern(Tile)
def tile(op: Tile, node: Node, target: InstructionSet) -> Match | str:
    """A stride of 0 above that of each axis."""
    (x,) = node.inputs
    repeated = [axis for axis, count in enumerate(op.repeats) if count > 1]

    def moves(placement: Placement) -> Iterable[Move]:
        element = element_bytes(x)
        shape = placement.shape(x)
        out = placement.strides(node.output)
        axes = []
        for axis, stride in enumerate(row_strides(shape, element)):
            if axis in repeated:
                axes.append(MovedAxis(op.repeats[axis], 0, out[axis] * shape[axis]))
            axes.append(MovedAxis(shape[axis], stride, out[axis]))
        yield Move(axes, x, 0, node.output)

    return _copied(node, x.type.rank + len(repeated), moves)


@pattern(Reverse)
def reverse(op: Reverse, node: Node, target: InstructionSet) -> Match | str:
    """Negative strides."""
    (x,) = node.inputs

    def moves(placement: Placement) -> Iterable[Move]:
        sizes = placement.shape(x)
        strides = row_strides(sizes, element_bytes(x))
        source = [-stride if axis in op.axes else stride for axis, stride in enumerate(strides)]
        first = sum((sizes[axis] - 1) * strides[axis] for axis in op.axes)
        yield Move(_axes(sizes, source, placement.strides(node.output)), x, first, node.output)

    return _copied(node, x.type.rank, moves)


@pattern(Slice)
def slice_(op: Slice, node: Node, target: InstructionSet) -> Match | str:
    """Longer strides."""
    (x,) = node.inputs

    def moves(placement: Placement) -> Iterable[Move]:
        element, sizes = element_bytes(x), placement.shape(node.output)
        source = row_strides(placement.shape(x), element)
        first = 0
        for axis, start, _, step in op.cuts:
            first += start * source[axis]
            source[axis] *= step
        yield Move(_axes(sizes, source, placement.strides(node.output)), x, first, node.output)

    return _copied(node, x.type.rank, moves)


@pattern(Split)
def split(op: Split, node: Node, target: InstructionSet) -> Match | str:
    """A copy for each part."""
    (x,) = node.inputs

    def moves(placement: Placement) -> Iterable[Move]:
        element = element_bytes(x)
        source = row_strides(placement.shape(x), element)
        for (start, _), out in zip(op.cuts, node.outputs, strict=True):
            sizes = placement.shape(out)
            axes = _axes(sizes, source, placement.strides(out))
            yield Move(axes, x, start * source[op.axis], out)

    return _copied(node, x.type.rank, moves)


@pattern(Concat)
def concat(op: Concat, node: Node, target: InstructionSet) -> Match | str:
    """A copy for each operand that was not made in its place; see `assignment`."""

    def moves(placement: Placement) -> Iterable[Move]:
        element = element_bytes(node.output)
        out, view = placement.strides(node.output), placement.write(node.output)
        to = 0
        for x in node.inputs:
            sizes = placement.shape(x)
            if x.is_constant or placement.read(x) != view.further(to):
                yield Move(_axes(sizes, row_strides(sizes, element), out), x, 0, node.output, to)
            to += sizes[op.axis] * out[op.axis]

    return _copied(node, node.output.type.rank, moves)


@pattern(ResizeNearest)
def resize_nearest(op: ResizeNearest, node: Node, target: InstructionSet) -> Match | str:
    """Strides of 0 where sizes grow by whole factors, longer ones where they shrink by such."""
    (x,) = node.inputs
    before = x.type.shape[1:-1]
    ways = [
        _regular(op.places(size, after))
        for size, after in zip(before, op.sizes, strict=True)
        if isinstance(size, int)
    ]
    if None in ways:
        return "not by whole factors"

    def moves(placement: Placement) -> Iterable[Move]:
        element = element_bytes(x)
        source = row_strides(placement.shape(x), element)
        out = placement.strides(node.output)
        axes = [MovedAxis(placement.shape(x)[0], source[0], out[0])]
        first = 0
        for axis, way in enumerate(ways, start=1):
            assert way is not None
            start, step, repeats = way
            first += start * source[axis]
            count = op.sizes[axis - 1] // repeats
            axes.append(MovedAxis(count, source[axis] * step, out[axis] * repeats))
            axes.append(MovedAxis(repeats, 0, out[axis]))
        axes.append(MovedAxis(placement.shape(x)[-1], element, element))
        yield Move(axes, x, first, node.output)

    return _copied(node, 2 + len(ways) + sum(way is not None and way[2] > 1 for way in ways), moves)


def _regular(places: Sequence[int]) -> tuple[int, int, int] | None:
    """Returns a start, step and repetitions that give the places; None where none do."""
    repeats = places.count(places[0])
    if len(places) % repeats:
        return None
    step = places[repeats] - places[0] if len(places) > repeats else 1
    regular = [places[0] + index // repeats * step for index in range(len(places))]
    return (places[0], step, repeats) if list(places) == regular else None
