"""Ops that move, compare or clamp numbers, done on stored numbers that mean just the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.errors import QirError
from qir.ir import Builder, Node, Value
from qir.ops import Clip, Pad, Quantize
from qir.ops.op import Op, infer
from qir.ops.rules import Coded
from qir.passes.shared.plan import KeptFloat
from qir.passes.shared.recoding import holds
from qir.types import Affine, Code, TensorType, known

_MOVED_ALONG = "it moves numbers along an axis on which the scales of its result vary"


def check_bounds(op: Op, code: Affine, mode: str) -> None:
    """Checks that an op's attributes are stored as the other numbers are.

    Args:
        op: An op that moves or clamps numbers.
        code: The code of its result.
        mode: The mode of the quantize that rounds to it.

    Raises:
        KeptFloat: The mode rounds them otherwise than the code does.
    """
    if isinstance(op, Clip):
        ends, kept = np.asarray([op.low, op.high]), np.asarray(op.coded_bounds(code))
    elif isinstance(op, Pad):
        ends, kept = np.full(code.grid, op.value), op.stored_value(code)
    else:
        return
    if not np.array_equal(Quantize(code, mode).encode(ends.astype(np.float32)), kept):
        raise KeptFloat(f"rounding {mode} takes its bounds to other numbers than the code does")


def check_code(node: Node, code: Affine) -> None:
    """Raises KeptFloat where operands of the code of an op's results do not give it to them."""
    if code.per_tensor:
        return
    operands = [
        value.type.with_element(code) if value.type.is_float else value.type
        for value in node.inputs
    ]
    if any(result.quant != code for result in infer(node.op, operands)):
        raise KeptFloat(_MOVED_ALONG)


def keeps_code(moves: Sequence[Op], type: TensorType, code: Affine) -> bool:
    """Whether numbers of a type that are in a code still are in that code behind some moves."""
    if code.per_tensor or not moves:
        return True
    try:
        result = type.with_element(code)
        for move in moves:
            (result,) = infer(move, [result])
    except QirError:
        return False
    return result.quant == code


def check_exact(op: Op, code: Code) -> None:
    """Raises KeptFloat where an op does not do to stored numbers what it does to real ones."""
    if isinstance(op, Pad) and not holds(code, op.value):
        raise KeptFloat(f"its operand's code does not hold {op.value:g}")
    if not isinstance(op, Clip):
        return
    if isinstance(code, Affine) and code.per_tensor and code.storage.bits <= 16:
        every = np.arange(code.range[0], code.range[1] + 1)
        clipped = np.clip(every, *op.coded_bounds(code))
        if np.array_equal(code.decode(clipped), op.evaluate(code.decode(every))):
            return
    raise KeptFloat("its bounds are no numbers of its operand's code")


def held(constant: Value, code: Code, builder: Builder) -> Value:
    """Returns a constant in a code that holds its numbers; raises KeptFloat where it does not."""
    if code.per_tensor:
        stored = code.encode(constant.array)
        if np.array_equal(code.decode(stored), constant.array):
            return builder.const(stored, constant.name, code)
    raise KeptFloat(f"the code of its operand does not hold the numbers of %{constant.name}")


def moved(node: Node, operands: Sequence[Value], builder: Builder) -> tuple[Value, ...]:
    """Computes a node's op on other operands; at once, where all is constant and none repeats."""
    if all(value.is_constant for value in operands) and len(node.outputs) == 1:
        (result,) = infer(node.op, [value.type for value in operands])
        if known(result.size, "constant") <= max(value.array.size for value in operands):
            pairs = [Coded(value.array, value.type) for value in operands]
            found = np.asarray(node.op.integer(pairs, result))
            array = np.ascontiguousarray(found, result.dtype.numpy)
            return (builder.const(array, node.output.name, result.element),)
    return builder.emit_node(node.op, operands).outputs
