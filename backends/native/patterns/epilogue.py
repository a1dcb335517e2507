"""What follows sums of products and is computed before they leave the registers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qir.backends.native.epilogue import Epilogue, Form
from qir.backends.native.pattern import sole_reader
from qir.ir import Node, Value
from qir.numbers.rounding import Float32, MachineForm, Scaled
from qir.ops import Add, Conv, Dequantize, Dot, Requantize
from qir.types import Affine, Array, DType

BYTES = (DType.I8, DType.U8)


def is_bytes(value: Value) -> bool:
    """Whether a value has an affine code of 8 bits for the whole tensor."""
    code = value.type.quant
    return (
        isinstance(code, Affine)
        and code.storage in BYTES
        and code.per_tensor
        and code.zero_points.ndim == 0
    )


@dataclass(frozen=True, eq=False)
class MatchedEpilogue:
    """What follows sums in the same step.

    Attributes:
        nodes: The nodes, perhaps none.
        code: What the kernel does with the sums.
        tables: The tables of that for each column, without the bias.
        parameters: Its parameters.
        residual: The tensor that is added.
    """

    nodes: tuple[Node, ...]
    code: Epilogue
    tables: Mapping[str, Array]
    parameters: Mapping[str, int]
    residual: Value | None = None

    def inputs(self, x: Value) -> tuple[Value, ...]:
        """Returns what a step reads beside constants: the operand of the sums and the residual."""
        return (x,) if self.residual is None else (x, self.residual)

    def result(self, sums: Node) -> Value:
        """Returns what a step writes that begins with sums."""
        return (sums, *self.nodes)[-1].output

    def columns(self, bias: Array) -> dict[str, Array]:
        """Returns the tables with a bias, an entry for each column.

        A code of the tensor makes tables of one number.
        """
        tables = {name: np.broadcast_to(each, bias.shape) for name, each in self.tables.items()}
        return {"bias": bias, **tables}


def matched_epilogue(sums: Value) -> MatchedEpilogue:
    """Returns what can be computed before the sums of a node leave the registers."""
    stored = MatchedEpilogue((), Epilogue("accumulator"), {}, {})
    node = sole_reader(sums)
    if node is None:
        return stored
    if isinstance(node.op, Dequantize):
        code = sums.type.affine
        if code.expressed is not DType.F32 or np.any(code.zero_points):
            return stored
        return MatchedEpilogue(
            (node,), Epilogue("real"), {"multiplier": _per_column(code.decoding_scale)}, {}
        )
    if not isinstance(node.op, Requantize):
        return stored
    scaled = _requantize(node)
    return stored if scaled is None else _with_sum(node, scaled)


def _per_column(array: Array) -> Array:
    return np.asarray(array, np.float32).reshape(-1)


def _requantize(node: Node) -> MatchedEpilogue | None:
    op, output = node.op, node.output
    assert isinstance(op, Requantize)
    if not is_bytes(output):
        return None
    point = int(op.to.zero_points)
    low, high = op.bounds
    parameters = {"low": low, "high": high, "point": point}
    unsigned = op.to.storage is DType.U8
    bounded = (low, high) != op.to.storage.bounds
    forms = in_order(op.machine_forms(node.inputs[0].type))
    found = next(filter(None, (_tables(form, point) for form in forms)), None)
    if found is None:
        return None
    form, tables = found
    return MatchedEpilogue((node,), Epilogue(form, unsigned, "", bounded), tables, parameters)


def in_order(forms: Iterable[tuple[str, MachineForm]]) -> list[MachineForm]:
    """Returns machine forms without the names of their modes, the fastest ones first."""
    return sorted((form for _, form in forms), key=lambda form: not isinstance(form, Float32))


def _tables(form: MachineForm, point: int) -> tuple[Form, dict[str, Array]] | None:
    """Returns how an epilogue computes a machine form, and its tables.

    Args:
        form: The form.
        point: The zero point, which epilogues add together with what rounds.

    Returns:
        None where 32 bits don't hold it, or no epilogue computes the form.
    """
    if isinstance(form, Float32):
        factors = form.value.reshape(-1)
        return "f32_rne" if np.all(factors <= 0.5) else "f32_rne_wide", {"multiplier": factors}
    terms = form.high_word(point) if isinstance(form, Scaled) else None
    if terms is None or terms.lifted:
        return None
    tables = {"multiplier": terms.value, "addend": terms.addend, "shift": terms.places}
    return "fixed31", {name: table.reshape(-1) for name, table in tables.items()}


def _with_sum(requantize: Node, epilogue: MatchedEpilogue) -> MatchedEpilogue:
    """Adds the sum with another tensor, where it alone reads the requantized numbers."""
    node = sole_reader(requantize.output)
    if node is None or not isinstance(node.op, Add) or not is_bytes(node.output):
        return epilogue
    if not node.op.rounds_half_up:
        return epilogue
    first, second = node.inputs
    if second is requantize.output and _ends_sums(first):
        return epilogue
    other = second if first is requantize.output else first
    if not is_bytes(other) or other.type.shape != requantize.output.type.shape:
        return epilogue
    (own, others), shift = node.op.factors(first.type, second.type)
    if other is first:
        own, others = others, own
    stored, mine, theirs = (value.type.affine for value in (node.output, requantize.output, other))
    addend = (1 << (shift - 1)) - own * int(mine.zero_points) - others * int(theirs.zero_points)
    low, high = stored.range
    parameters = {
        **epilogue.parameters,
        "own": own,
        "other": others,
        "sum_addend": _wrapped(addend),
        "sum_shift": shift,
        "sum_point": int(stored.zero_points),
        "sum_low": low,
        "sum_high": high,
    }
    code = Epilogue(
        epilogue.code.form,
        stored.storage is DType.U8,
        "unsigned" if theirs.storage is DType.U8 else "signed",
        stored.range != stored.storage.bounds,
    )
    return MatchedEpilogue((*epilogue.nodes, node), code, epilogue.tables, parameters, other)


def _ends_sums(value: Value) -> bool:
    """Whether a value is itself requantized sums, behind which the addition will be computed."""
    return (
        isinstance(value.op, Requantize)
        and value.node is not None
        and isinstance(value.node.inputs[0].op, Conv | Dot)
        and sole_reader(value.node.inputs[0]) is not None
        and sole_reader(value) is not None
    )


def _wrapped(value: int) -> int:
    """Returns an integer modulo 2^32: sums wrap, and only the whole one is in range."""
    return (value + 2**31) % 2**32 - 2**31
