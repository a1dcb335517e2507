"""What a quantized graph takes and returns: floating-point or stored numbers."""

from __future__ import annotations

from qir.ir import Builder, Node, Value
from qir.passes.shared.boundary import Boundary, Wanted
from qir.passes.shared.forms import Forms
from qir.types import Affine, DType


def take_coded(value: Value, wanted: Wanted, forms: Forms) -> None:
    """Lets a graph take an input in a code.

    Args:
        value: The input; one that is no float, or has no range and no code, stays as it is.
        wanted: The code, or the storage type of the one that its range asks for.
        forms: The forms of values, to which it is added.
    """
    if not value.type.is_float:
        return
    if isinstance(wanted, DType):
        if not forms.plan.has_code(value):
            return
        wanted = forms.plan.code_for(value, wanted)
    forms.take(value, wanted)


def return_from(node: Node, boundary: Boundary, forms: Forms, builder: Builder) -> None:
    """Gives what a graph returns the form that is wanted of it.

    Args:
        node: The return.
        boundary: What is wanted.
        forms: The forms of values.
        builder: Inserts before the return.
    """
    for index, value in enumerate(node.inputs):
        wanted = boundary.returned[index] if boundary.returned else None
        if isinstance(wanted, Affine):
            node.set_input(index, forms.code(value, builder, wanted))
            continue
        if wanted is None or not forms.is_activation(value):
            node.set_input(index, forms.real(value, builder))
            continue
        code = forms.main.get(value) or forms.plan.code_for(value)
        if code.storage.bits != wanted.bits:
            code = forms.plan.code_for(value, wanted)
        if code.storage is not wanted:
            points = int(code.zero_points) + wanted.bounds[0] - code.storage.bounds[0]
            code = Affine.of(wanted, code.scale.array, points, expressed=code.expressed)
        node.set_input(index, forms.code(value, builder, code))
