"""Pipelines that quantize: the named ones, and any options that have a meaning together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, TypeAlias

from hypothesis import strategies as st

from qir.errors import QirError
from qir.passes.pipelines import ACTIVATIONS, FINE, FOLD, INTEGER, WEIGHTS
from qir.passes.quantize.quantize import QuantizePass
from qir.passes.quantize.quantize_dynamic import QuantizeDynamicPass
from qir.passes.shared.weight_codes import SCHEMES
from tests.strategies.base import Draw

Quantizing: TypeAlias = QuantizePass | QuantizeDynamicPass

NAMED = (
    "w8a8", "w4a8", "log4", "w8a16", "w4a16", "w16a16",
    "w8-dynamic", "w8", "fp8", "w4", "nf4",
)  # fmt: skip

GRANULARITIES = (
    "channel",
    "channel",
    "tensor",
    "row",
    "block:2",
    "block:3",
    "block:16",
    "block:32",
)

OPTIONS = {
    "weights": ("i8", "i4", "i2", "i16"),
    "per": GRANULARITIES,
    "scheme": ("affine", "affine", *SCHEMES),
}
"""What both passes have to choose from. What is written twice comes as often."""

STATIC = {**OPTIONS, "activations": ("i8", "u8", "i16", "float"), "symmetric": (False, True)}
DYNAMIC = {
    **OPTIONS,
    "activations": ("i8", "i4"),
    "scales": ("row", "tensor"),
    "products": ("weights", "all"),
}

BEFORE = {"i16": f"{FOLD}, {FINE}", "float": WEIGHTS}
"""What comes before quantize, by the storage of activations."""


@cache
def legal(kind: type[Quantizing]) -> list[Quantizing]:
    """Returns a pass with each choice of options that its check accepts."""
    options: dict[str, tuple[Any, ...]] = STATIC if kind is QuantizePass else DYNAMIC
    found: list[Quantizing] = []
    for values in product(*options.values()):
        with suppress(QirError):
            found.append(kind(**dict(zip(options, values, strict=True))))
    return found


@st.composite
def quantizing(draw: Draw, kept: Sequence[str] = ()) -> str:
    """Draws a pipeline: a named one, or one of options drawn by schemes, so that none is rare.

    Args:
        draw: Given by hypothesis.
        kept: Selectors of ops that stay in floating point; named pipelines have none.
    """
    if not kept and draw(st.integers(0, 2)) == 0:
        return draw(st.sampled_from(NAMED))
    kind = draw(st.sampled_from([QuantizePass, QuantizePass, QuantizeDynamicPass]))
    scheme = draw(
        st.sampled_from(["affine", "affine", *sorted({one.scheme for one in legal(kind)})])
    )
    widths = sorted({one.activations for one in legal(kind) if one.scheme == scheme})
    width = draw(st.sampled_from(widths))
    chosen = draw(
        st.sampled_from(
            [one for one in legal(kind) if (one.scheme, one.activations) == (scheme, width)]
        )
    )
    step = replace(chosen, keep_float=tuple(kept))
    if kind is QuantizeDynamicPass:
        return f"{FOLD}, {step}, canonicalize, check-overflow"
    if width == "float":
        return f"{WEIGHTS}, {step}, canonicalize"
    return f"{BEFORE.get(width, ACTIVATIONS)}, {step}, {INTEGER}"
