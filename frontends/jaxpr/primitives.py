"""The rules of jax primitives, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from qir.frontends.shared.emitter import Operand

PrimitiveRule: TypeAlias = Callable[..., Operand | Sequence[Operand]]
PrimitiveFunction = TypeVar("PrimitiveFunction", bound=PrimitiveRule)

PRIMITIVES: dict[str, PrimitiveRule] = {}
"""The rule of each primitive, by the primitive's name."""


def primitive(*names: str) -> Callable[[PrimitiveFunction], PrimitiveFunction]:
    """Registers the import rule of jax primitives; a later rule replaces an earlier one.

    The function is called as `rule(b, *operands, **params)` with an `Emitter`, the operands and the
    primitive's parameters. It returns the result, or all results, of the types that jax traced::

        @primitive("my_scale")
        def my_scale(b, x, *, factor):
            return b.emit(Mul(), x, b.const(np.float32(factor)))

    Args:
        names: Names of the primitives, as a jaxpr prints them.
    """

    def register(function: PrimitiveFunction) -> PrimitiveFunction:
        for name in names:
            PRIMITIVES[name] = function
        return function

    return register
