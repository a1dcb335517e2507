"""How each jax primitive is written in the IR, one file a family; importing registers them."""

from qir.frontends.jaxpr.rules import (
    contraction,
    convolution,
    elementwise,
    indexing,
    reduction,
    shape,
    updates,
    window,
)

__all__ = [
    "contraction",
    "convolution",
    "elementwise",
    "indexing",
    "reduction",
    "shape",
    "updates",
    "window",
]
