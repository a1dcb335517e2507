"""raise-softmax: exponentials divided by their sum become softmax."""

from __future__ import annotations

from qir.ir import Builder, Value
from qir.ops import Div, Exp, ReduceMax, ReduceSum, Softmax, Sub
from qir.passes.shared.matching import computed_alike
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import rule


@rule(Div)
def softmax(y: Value, b: Builder) -> Value | None:
    """Recognises exp(x - max x) / sum of exp(x - max x), and the same without the max."""
    powers, total = y.inputs
    match total:
        case Value(ReduceSum(axes=axes, keep_axes=True), (summed,)) if axes:
            if not computed_alike(summed, powers):
                return None
        case _:
            return None
    match powers:
        case Value(Exp(), (Value(Sub(), (x, shift)),)) if _is_max(shift, x, axes):
            return b.emit(Softmax(axes), x)
        case Value(Exp(), (x,)):
            return b.emit(Softmax(axes), x)
        case _:
            return None


def _is_max(value: Value, x: Value, axes: tuple[int, ...]) -> bool:
    match value:
        case Value(ReduceMax(axes=along, keep_axes=True), (reduced,)):
            return along == axes and computed_alike(reduced, x)
        case _:
            return False


@register
class RaiseSoftmax(Raising):
    """Finds softmax, with the greatest number subtracted or without."""

    name = "raise-softmax"
    rules = (softmax,)
