"""move-transposes: transposes sink through the program until they meet their inverses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.ops import Const, Dequantize, Dot, Lookup, Quantize, Recode, Requantize, Reshape, Transpose
from qir.ops.orders import Order, Turned, after, identity, inverse
from qir.passes.shared.constants import derived
from qir.passes.shared.layouts import moves_nothing, reshape_blocks, turned, turned_rank
from qir.passes.shared.weights import emit_as
from qir.pipeline import Context, Pass, register
from qir.pipeline.rewrite import Skip, rewrite, rule
from qir.types import Dim, Shape, Size, known


@register
class MoveTransposes(Pass):
    """Moves transposes so that few numbers are transposed; those that undo one another vanish.

    A program from a framework whose channels come first has a transpose on either side of each
    convolution. They sink through elementwise ops, casts, concat, reductions, pools, and whatever
    else can compute with its axes in another order; constants are transposed at compile time, and
    where a flattened map meets a dot, the rows of its weights are. Operands that stand in different
    orders are brought into the one that transposes fewer numbers. The program stays as it is where
    nothing is gained.

    Values whose axes come to stand in another order keep their names and ranges, and know in which
    order the axes of the imported value stand that they are.
    """

    name = "move-transposes"

    def run(self, graph: Graph, context: Context) -> None:
        costs = [cost(graph)]
        if costs[0]:
            for eager in (True, False):
                trial = graph.copy()
                _move(trial, eager)
                costs.append(cost(trial))
        if best := int(np.argmin(costs)):
            names = Inheritance(graph)
            _move(graph, eager=best == 1)
            names.settle()


def _move(graph: Graph, eager: bool) -> None:
    _Sinking(graph, eager).run()
    rewrite(graph, [into_rows], nested=False)


def cost(graph: Graph) -> int:
    """Returns how many numbers transposes move when a program runs; named sizes count as 1."""
    return sum(
        _count(node.inputs[0].type.size)
        for node in graph.nodes
        if isinstance(node.op, Transpose)
        and not node.inputs[0].is_constant
        and not moves_nothing(node.op.permutation, node.inputs[0].type.shape)
    )


def _count(size: Size) -> int:
    return size.factor if isinstance(size, Dim) else size


class View(NamedTuple):
    """A value of the old program in terms of one of the new program.

    Attributes:
        base: The value that is computed.
        order: The order of the old value's axes in terms of the base's.
    """

    base: Value
    order: Order


class _Sinking:
    """One run over a graph, in order: transposes are put off until an op needs them.

    Args:
        graph: The graph.
        eager: Whether operands in different orders, where either costs the same, come to stand like
            the one that was transposed.
    """

    def __init__(self, graph: Graph, eager: bool) -> None:
        self.graph = graph
        self.eager = eager
        self.views: dict[Value, View] = {}
        self.made: dict[View, Value] = {}
        self.remade: set[Value] = set()

    def run(self) -> None:
        for node in list(self.graph.nodes):
            match node.op:
                case Const():
                    pass
                case Transpose(permutation=permutation):
                    base, order = self.view(node.inputs[0])
                    self.put_off(node.output, View(base, after(permutation, order)))
                case Reshape() if (view := self.reshaped(node)) is not None:
                    self.put_off(node.output, view)
                case _:
                    self.compute(node)
        for value, (base, order) in self.views.items():
            if value not in self.remade:
                base.stand_for(value, inverse(order))
        for node in reversed(list(self.graph.nodes)):
            if node.outputs and not any(value.uses for value in node.outputs):
                self.graph.erase(node)

    def view(self, value: Value) -> View:
        return self.views.get(value) or View(value, identity(value.type.rank))

    def put_off(self, value: Value, view: View) -> None:
        """Records what a value is; where that is computed already, it is read instead."""
        if view.order == identity(len(view.order)):
            value.replace_with(view.base)
        else:
            self.views[value] = view

    def compute(self, node: Node) -> None:
        """Lets a node compute in the order of axes that transposes the fewest numbers."""
        plans: list[tuple[int, Turned | None, Order]] = [(self.price(node), None, ())]
        for order in self.orders(node):
            change = turned(node, order)
            if change is not None:
                plans.append((self.price(node, change, order), change, order))
        if self.eager:
            plans.append(plans.pop(0))
        for _, change, order in sorted(plans, key=lambda plan: plan[0]):
            builder = self.graph.before(node)
            if change is None:
                for value in node.inputs:
                    self.as_it_was(value, builder)
                return
            try:
                self.emit(node, change, order, builder)
            except QirError:
                continue
            return

    def orders(self, node: Node) -> list[Order]:
        """Lists the orders of axes, other than its own, that the node's operands stand in."""
        if node.regions or not node.outputs:
            return []
        rank = turned_rank(node)
        views = [self.views[value] for value in node.inputs if value in self.views]
        return list(dict.fromkeys(view.order for view in views if len(view.order) == rank))

    def price(self, node: Node, change: Turned | None = None, order: Order = ()) -> int:
        """Counts the numbers to transpose for a node on turned operands, or as it is."""
        total = 0
        for index, value in enumerate(node.inputs):
            base, move = self.view(value)
            if change is not None and index in change.operands and len(order) == len(move):
                move = after(inverse(order), move)
            free = (
                base.is_constant
                or View(base, move) in self.made
                or moves_nothing(move, base.type.shape)
            )
            total += 0 if free else _count(base.type.size)
        return total

    def emit(self, node: Node, change: Turned, order: Order, builder: Builder) -> None:
        operands = [
            self.turn(value, order, builder)
            if index in change.operands
            else self.as_it_was(value, builder)
            for index, value in enumerate(node.inputs)
        ]
        first = node.outputs[0]
        emitted = builder.emit_node(change.op, operands, name=first.name if first.named else None)
        emitted.note = node.note
        for old, new, turns in zip(node.outputs, emitted.outputs, change.orders, strict=True):
            new.take_ranges(old)
            self.put_off(old, View(new, turns))

    def turn(self, value: Value, order: Order, builder: Builder) -> Value:
        """Returns an operand with its axes as a turned op wants them."""
        missing = len(order) - value.type.rank
        if missing and value.type.size == 1:
            return self.as_it_was(value, builder)
        if missing:
            # It is broadcast along axes that are no longer the first ones.
            shape = (*(1,) * missing, *value.type.shape)
            if value.is_constant:
                array = value.array.reshape(tuple(known(size, "shape") for size in shape))
                value = derived(builder, array, value)
            else:
                value = builder.emit(Reshape(shape), self.as_it_was(value, builder))
        base, own = self.view(value)
        return self.make(View(base, after(inverse(order), own)), builder)

    def as_it_was(self, value: Value, builder: Builder) -> Value:
        """Returns an old value; where it is not computed, a transpose makes it."""
        view = self.views.get(value)
        if view is None:
            return value
        new = self.make(view, builder)
        if new is not value:
            self.views[new] = view
            self.remade |= {value, new}
            value.replace_with(new)
        return new

    def make(self, view: View, builder: Builder) -> Value:
        """Emits the transpose that a view stands for, unless there is one already."""
        base, order = view
        if order == identity(len(order)):
            return base
        if view not in self.made:
            if base.is_constant:
                op = Transpose(order)
                type = op.result(base.type)
                array = np.ascontiguousarray(base.array.transpose(order))
                self.made[view] = builder.const(array, base.name, type.element)
            else:
                self.made[view] = builder.emit(Transpose(order), base)
        return self.made[view]

    def reshaped(self, node: Node) -> View | None:
        """Reshapes the base; what is joined without standing together there is put together."""
        value, result = node.inputs[0], node.output
        base, order = self.view(value)
        shape = result.type.shape
        blocks = reshape_blocks(value.type.shape, shape)
        if order == identity(len(order)) or blocks is None:
            return None
        blocks.sort(key=lambda block: min(order[axis] for axis in block.before))
        builder = self.graph.before(node)
        together = [order[axis] for block in blocks for axis in block.before]
        if together != sorted(together):
            ones = [axis for axis, size in enumerate(base.type.shape) if size == 1]
            base = self.make(View(base, (*ones, *together)), builder)
        laid_out = _with_ones([axis for block in blocks for axis in block.after], shape)
        sizes = tuple(shape[axis] for axis in laid_out)
        if sizes != base.type.shape:
            try:
                base = builder.emit(Reshape(sizes), base)
            except QirError:
                return None
        return View(base, inverse(tuple(laid_out)))


def _with_ones(axes: list[int], shape: Shape) -> list[int]:
    """Adds the axes of size 1, each behind the one that it follows in the shape."""
    laid_out = list(axes)
    for axis, size in enumerate(shape):
        if size == 1:
            laid_out.insert(laid_out.index(axis - 1) + 1 if axis else 0, axis)
    return laid_out


@rule(Dot)
def into_rows(y: Value, b: Builder) -> Value | Skip | None:
    """dot(reshape(transpose(x)), w) -> dot(reshape(x), w'), the rows of w in another order."""
    if not isinstance(y.op, Dot) or y.op.batch:
        return None
    between: list[Value] = []
    value = y.inputs[0]
    while _is_pointwise(value):
        between.append(value)
        value = value.inputs[0]
    match value:
        case Value(Reshape(shape=shape), [Value(Transpose(permutation=order), [x]) as turned_x]):
            pass
        case _:
            return None
    kernel = y.inputs[1]
    if other := next((v for v in (*between, value, turned_x) if len(v.uses) != 1), None):
        return Skip("the flattened numbers are read elsewhere too", other)
    if not kernel.is_constant or _varies(kernel, 0):
        return Skip("the weights' rows can't be put into another order", kernel)
    rows = _rows(turned_x.type.shape, order, shape)
    if rows is None:
        return Skip("the transpose moves more than the rows", turned_x)
    new = x
    try:
        for each in (value, *reversed(between)):
            assert each.op is not None
            new = emit_as(b, each, each.op, new, *each.inputs[1:])
            new.take_ranges(each)
    except QirError as error:
        return Skip(error.message, turned_x)
    weights = derived(b, np.ascontiguousarray(kernel.array[rows]), kernel)
    return emit_as(b, y, y.op, new, weights, *y.inputs[2:])


def _is_pointwise(value: Value) -> bool:
    """Whether a value is a function of one tensor that is the same at each place."""
    op, operands = value.op, value.inputs
    if op is None or not operands or operands[0].type.shape != value.type.shape:
        return False
    if any(_varies(each) for each in (operands[0], value)):
        return False
    if isinstance(op, Quantize | Dequantize | Recode | Requantize | Lookup):
        return True
    return op.elementwise and all(x.is_constant and x.array.size == 1 for x in operands[1:])


def _varies(value: Value, axis: int | None = None) -> bool:
    """Whether a value's code varies, along an axis where one is given."""
    code = value.type.quant
    if code is None or code.per_tensor:
        return False
    return axis is None or code.grid[axis] != 1


def _rows(before: Shape, order: Order, after_: Shape) -> list[int] | None:
    """Tells which place of the last axis comes where if a reshape reads what was not transposed.

    Args:
        before: Shape of the transposed tensor, which is reshaped.
        order: The order of its axes in terms of those of the tensor that is transposed.
        after_: Shape after the reshape.

    Returns:
        For each place along the last axis of the new result the place in the old one; None where
        the transpose does more than that.
    """
    blocks = reshape_blocks(before, after_)
    if not blocks or blocks[-1].after != (len(after_) - 1,):
        return None
    last = blocks[-1].before
    kept = [order[axis] for block in blocks[:-1] for axis in block.before]
    moved = [order[axis] for axis in last]
    if kept != sorted(kept) or (kept and max(kept) > min(moved)):
        return None
    if any(isinstance(before[axis], Dim) for axis in last):
        return None
    sizes = [known(before[axis], "rows") for axis in last]
    turned_back = sorted(range(len(moved)), key=moved.__getitem__)
    places = np.arange(np.prod(sizes)).reshape(sizes).transpose(turned_back)
    return [int(place) for place in places.ravel()]
