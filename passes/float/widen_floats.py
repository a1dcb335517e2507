"""widen-floats: a half-precision program becomes one of float32, so that its casts stop nothing."""

from __future__ import annotations

from dataclasses import replace

from qir.analysis.properties import FLOAT, FLOAT_OPS
from qir.errors import PassError
from qir.ir import Builder, Graph, Node, Value, clone
from qir.ops import Cast, Const, Iota, Return
from qir.ops.op import Op
from qir.pipeline import Context, Pass, register
from qir.types import DType, Element, TensorType

HALF = (DType.F16, DType.BF16)


@register
class WidenFloats(Pass):
    """Computes in f32 what a program computes in f16 or bf16.

    Frameworks cast back and forth around the ops that they keep in f32, such as normalization; such
    casts stand between ops that other passes fold. Inputs and outputs keep their types, with one
    cast each; what goes through a loop or branch is f32. In real numbers nothing changes.
    """

    name = "widen-floats"
    requires = (FLOAT_OPS,)
    whole_program = True

    def run(self, graph: Graph, context: Context) -> None:
        if not any(value.type.element in HALF for value in graph.values_inside()):
            return
        if (reason := FLOAT.missing(graph)) is not None:
            raise PassError(f"widen-floats: expected no codes beside f16 and bf16: {reason}")
        wide: dict[Value, Value] = {}
        for node in list(graph.nodes):
            builder = graph.before(node)
            if isinstance(node.op, Return):
                for index, value in enumerate(node.inputs):
                    if value in wide:
                        node.set_input(index, _narrowed(value.type.element, wide[value], builder))
                continue
            for value in node.inputs:
                if value.node is None and value.type.element in HALF and value not in wide:
                    wide[value] = builder.emit(Cast(DType.F32), value)
            if any(value in wide for value in node.inputs) or _is_half(node):
                wide |= _widened(node, [wide.get(value, value) for value in node.inputs], builder)
        for value, new in wide.items():
            if value.node is not None:
                value.replace_with(new)
        for node in reversed(list(graph.nodes)):
            if node.outputs and not any(value.uses for value in node.outputs):
                graph.erase(node)


def _narrowed(element: Element, value: Value, builder: Builder) -> Value:
    return (
        builder.emit(Cast(element), value)
        if isinstance(element, DType) and element in HALF
        else value
    )


def _is_half(node: Node) -> bool:
    inside = (value for region in node.regions for value in region.values_inside())
    return any(value.type.element in HALF for value in (*node.outputs, *inside))


def _wide(type: TensorType) -> TensorType:
    return type.with_element(DType.F32) if type.element in HALF else type


def _widened(node: Node, operands: list[Value], builder: Builder) -> dict[Value, Value]:
    op: Op = node.op
    if isinstance(op, Const):
        array = node.output.array.astype(DType.F32.numpy)
        constant = builder.const(array, node.output.name)
        constant.named = False
        return {node.output: constant}
    match op:
        case Cast() if op.to in HALF:
            op = Cast(DType.F32)
        case Iota() if op.element in HALF:
            op = replace(op, element=DType.F32)
        case _:
            pass
    if isinstance(op, Cast) and operands[0].type.element == op.to:
        return {node.output: operands[0]}
    emitted = builder.emit_node(op, operands, [clone(each, retype=_wide) for each in node.regions])
    return dict(zip(node.outputs, emitted.outputs, strict=True))
