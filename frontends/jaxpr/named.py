"""Functions that the source calls by name, raised to that op once their numbers agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qir.errors import what_failed
from qir.ir import Graph, Node, Value
from qir.ops import (
    Clip,
    Elu,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Logistic,
    Mish,
    Relu,
    ResizeLinear,
    ResizeNearest,
    Silu,
    Softplus,
)
from qir.ops.op import Op
from qir.types import Array, Dim, known

Function = Callable[[Array], Array]

_LIMIT = 64
_PROBES = np.concatenate(
    [np.linspace(-12, 12, 24 * 32 + 1), np.outer([-1, 1], [20, 50, 100, 1e3, 1e4]).reshape(-1)]
)
_FIXED: dict[str, tuple[Op, ...]] = {
    "relu": (Relu(),),
    "relu6": (Clip(0, 6),),
    "silu": (Silu(),),
    "hard_swish": (HardSwish(),),
    "hard_sigmoid": (HardSigmoid(),),
    "gelu": (Gelu(), Gelu(approximate=True)),
    "mish": (Mish(),),
    "logistic": (Logistic(),),
    "softplus": (Softplus(),),
}


@dataclass(frozen=True, eq=False)
class NamedCall:
    """A function of one varying operand.

    Attributes:
        name: What the source says that it computes: the name of an op, `relu6`, or `resize`, by
            which of its ways is found out. Frontends translate their source's own words.
        x: Its operand.
        y: Its result.
    """

    name: str
    x: Value
    y: Value


def raise_named(graph: Graph, calls: Sequence[NamedCall]) -> tuple[str, ...]:
    """Replaces what functions compute by the op that their names tell.

    A name is believed only if the op gives the same numbers: for elementwise functions at probes
    that reach from the kinks of the known activations into both tails, for a resize, which is
    linear, at a random tensor.

    Args:
        graph: The graph, of a body too, that the calls were imported into.
        calls: The functions, outer before inner.

    Returns:
        A sentence for each name whose check failed.
    """
    told: list[str] = []
    covered: set[Node] = set()
    raised: dict[Value, Value] = {}
    for recorded in calls:
        call = replace(recorded, x=raised.get(recorded.x, recorded.x))
        if call.y.node is None or call.y.node in covered:
            continue
        cone = _cone(call.x, call.y)
        if cone is None:
            continue
        try:
            op = _resize(call, cone) if call.name == "resize" else _elementwise(call, cone)
            if op is not None:
                raised[call.y] = graph.before(call.y.node).emit(op, call.x)
                call.y.replace_with(raised[call.y])
                covered.update(cone)
        except Exception as error:  # any: none of them is a reason not to import
            subject = f"from_jax: the name {call.name} tells nothing {call.y.place()}"
            told.append(f"{subject}: {what_failed(error)}; its ops are imported instead")
    return tuple(told)


def _cone(x: Value, y: Value) -> list[Node] | None:
    """Lists the nodes that compute y from x and constants, or None where more is needed."""
    found: dict[Node, None] = {}
    pending: list[tuple[Value, bool]] = [(y, False)]
    while pending:
        value, is_done = pending.pop()
        node = value.node
        if value is x or (node is not None and node in found):
            continue
        if node is None or node.regions or len(node.outputs) != 1 or len(found) > _LIMIT:
            return None
        if is_done:
            found[node] = None
        else:
            pending.append((value, True))
            pending.extend((operand, False) for operand in node.inputs)
    return list(found)


def _run(cone: Sequence[Node], x: Value, y: Value, numbers: Array) -> Array:
    """Computes a cone in float64."""
    values: dict[Value, Array] = {x: numbers}
    with np.errstate(all="ignore"):
        for node in cone:
            result = node.output
            if result.is_constant:
                array = result.array
                values[result] = array.astype(np.float64) if result.type.is_float else array
            else:
                found = node.op.evaluate(*(values[operand] for operand in node.inputs))
                assert not isinstance(found, tuple)
                values[result] = found
    return values[y]


def _elementwise(call: NamedCall, cone: Sequence[Node]) -> Op | None:
    if call.x.type != call.y.type or not call.x.type.is_float:
        return None
    for node in cone:
        if not (node.op.elementwise or (node.output.is_constant and node.output.array.size == 1)):
            return None

    def function(numbers: Array) -> Array:
        return np.broadcast_to(np.squeeze(_run(cone, call.x, call.y, numbers)), numbers.shape)

    wanted = function(_PROBES)
    errors: dict[Op, float] = {}
    for op in (*_FIXED.get(call.name, ()), *_with_parameters(call, function)):
        found = op.evaluate(_PROBES)
        assert not isinstance(found, tuple)
        # Each of the few constants has one rounding, which the result shows in proportion.
        bound = 8 * call.x.type.dtype.epsilon * (1 + np.abs(wanted))
        if np.all(np.abs(found - wanted) <= bound):
            errors[op] = float(np.max(np.abs(found - wanted)))
    return min(errors, key=lambda op: errors[op], default=None)


def _with_parameters(call: NamedCall, function: Function) -> list[Op]:
    """Reads the parameter of a family off the function's own values."""
    at = {x: float(function(np.array([x]))[0]) for x in (-1e30, -60.0, -1.0, 1e30)}
    dtype = call.x.type.dtype
    match call.name:
        case "elu" if np.isfinite(at[-60.0]):
            return [Elu(dtype.shortest(-at[-60.0]))]
        case "leaky_relu" if np.isfinite(at[-1.0]):
            return [LeakyRelu(dtype.shortest(-at[-1.0]))]
        case "clip" if at[-1e30] <= at[1e30]:
            low = dtype.shortest(at[-1e30]) if at[-1e30] > -1e30 else -np.inf
            high = dtype.shortest(at[1e30]) if at[1e30] < 1e30 else np.inf
            return [Clip(low, high)]
        case _:
            return []


def _resize(call: NamedCall, cone: Sequence[Node]) -> Op | None:
    before, after = call.x.type.shape, call.y.type.shape
    if len(before) not in (3, 4, 5) or (before[0], before[-1]) != (after[0], after[-1]):
        return None
    if any(isinstance(size, Dim) for size in (*before[1:], *after[1:])):
        return None
    sizes = tuple(known(size, "resize") for size in after[1:-1])
    if not all((*before[1:], *sizes)):
        return None
    shape = [1 if isinstance(size, Dim) else size for size in before]
    x = np.random.default_rng(0).uniform(-1, 1, shape)
    wanted = _run(cone, call.x, call.y, x)
    # The source computes coordinates, whose size is that of the tensor, in its own precision.
    bound = 4 * call.x.type.dtype.epsilon * max(*shape[1:-1], *sizes)
    for op in (ResizeNearest(sizes), ResizeLinear(sizes)):
        found = op.evaluate(x)
        if found.shape == wanted.shape and np.all(np.abs(found - wanted) <= bound):
            return op
    return None
