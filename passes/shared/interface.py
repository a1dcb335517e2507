"""What a quantized program takes and returns: floating-point or stored numbers."""

from __future__ import annotations

from typing import Literal, TypeAlias

from qir.ir import Builder, Node, Value
from qir.passes.shared.forms import Forms
from qir.types import Affine, DType

Interface: TypeAlias = Literal["float", "i8", "u8"]
"""Floating-point numbers, or stored numbers of one of two types."""


def take_coded(value: Value, storage: DType, forms: Forms) -> None:
    """Lets a program take an input in the code that its range asks for.

    Args:
        value: The input; one that is no float, or has no range and no code, stays as it is.
        storage: The storage type.
        forms: The forms of values, to which it is added.
    """
    if not value.type.is_float or not forms.plan.has_code(value):
        return
    code = forms.plan.code_for(value, storage)
    value.type = value.type.with_element(code)
    value.range = None  # What was observed stays, for what is told of an input that never varied.
    forms.coded[value, code], forms.main[value] = value, code


def return_from(node: Node, outputs: Interface, forms: Forms, builder: Builder) -> None:
    """Gives what a program returns the form that is wanted of it.

    Args:
        node: The return.
        outputs: What the program returns.
        forms: The forms of values.
        builder: Inserts before the return.
    """
    for index, value in enumerate(node.inputs):
        if outputs == "float" or not forms.is_activation(value):
            node.set_input(index, forms.real(value, builder))
            continue
        code = forms.main.get(value) or forms.plan.code_for(value)
        wanted = DType(outputs)
        if code.storage.bits != wanted.bits:
            code = forms.plan.code_for(value, wanted)
        if code.storage is not wanted:
            points = int(code.zero_points) + wanted.bounds[0] - code.storage.bounds[0]
            code = Affine.of(wanted, code.scale.array, points, expressed=code.expressed)
        node.set_input(index, forms.code(value, builder, code))
