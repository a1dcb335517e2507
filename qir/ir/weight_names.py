"""Layers, as the names of their weights tell them: `conv1.kernel` belongs to `conv1`."""

from __future__ import annotations

from collections.abc import Iterable

_COLLECTIONS = {"params", "batch_stats"}
"""What flax puts before a model's own names."""


def layer_of(weight: str | None) -> str | None:
    """Returns the layer that a weight belongs to, or None where its name tells none."""
    path = weight.split(".")[:-1] if weight else []
    if len(path) > 1 and path[0] in _COLLECTIONS and not path[1].isdigit():
        path = path[1:]
    return ".".join(path) or None


def derived_name(weights: Iterable[str | None], role: str) -> str | None:
    """Names an array that is computed from weights of one layer; None where that is not so.

    Args:
        weights: Names of the arrays, None for those without one, which say nothing.
        role: What the new array is to the layer.
    """
    layers = {layer_of(weight) for weight in weights if weight is not None}
    layer = layers.pop() if len(layers) == 1 else None
    return f"{layer}.{role}" if layer else None
