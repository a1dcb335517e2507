"""Codes of every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
from hypothesis import strategies as st

from qir.types import (
    MXFP4,
    NVFP4,
    Affine,
    Array,
    Code,
    Codebook,
    DType,
    Float8,
    Float8E4M3,
    Float8E5M2,
    FrozenArray,
    LevelCode,
    PowerOfTwo,
    expand,
)
from qir.types.codes.code import MOST_MULTIPLIER
from tests.strategies.base import Draw, codebooks, generator, scales

Tensor: TypeAlias = tuple[int, ...]
Coded = TypeVar("Coded", bound=Code)
Drawn: TypeAlias = Callable[[Draw, Tensor, int | None], LevelCode]


def level_codes(draw: Draw, shape: Tensor, axis: int | None = None) -> LevelCode:
    """Draws codes of all kinds that are a table.

    Args:
        draw: Given by hypothesis.
        shape: Shape of the tensor; kinds with blocks are drawn where it has room for them.
        axis: The axis along which scales may vary; those of blocks vary along all.
    """
    return KINDS[draw(st.sampled_from(kinds_of(shape)))](draw, shape, axis)


def kinds_of(shape: Tensor) -> list[str]:
    """Returns the names of the kinds that a tensor may have."""
    return [
        kind for kind in KINDS if any(size and size % _BLOCKS.get(kind, 1) == 0 for size in shape)
    ]


def in_two_levels(draw: Draw, code: Coded, shape: Tensor) -> Coded:
    """Gives a code multipliers by block, drawn along any axes, that leave its steps in 16 bits.

    Args:
        draw: Given by hypothesis.
        code: A code whose scale multiplies integers, or not; one of a kind that has no multipliers
            stays as it is, and so does one whose steps leave no room.
        shape: Shape of the tensor.
    """
    greatest = max(map(abs, code.step_bounds or (1, 1)))
    room = code.scale_bounds[1] if isinstance(code, LevelCode) else 2.0**125
    room = min(room / float(code.scale.array.max()), float(MOST_MULTIPLIER))
    most = min(int(room), (2**15 - 1) // greatest)
    if isinstance(code, MXFP4 | NVFP4) or code.storage.bits > 16 or most < 2 or 0 in shape:
        return code
    parts = tuple(draw(st.sampled_from([n for n in (1, 2, 3, s) if s % n == 0])) for s in shape)
    multipliers = generator(draw).integers(1, draw(st.integers(2, most)), parts, endpoint=True)
    return replace(code, multipliers=FrozenArray(multipliers))


def block_scales(draw: Draw, storage: DType, shape: Tensor) -> Affine:
    """Draws an affine code with a float scale for each block, of any division of a tensor."""
    parts = tuple(draw(st.sampled_from([n for n in (1, 2, 3, s) if s % n == 0])) for s in shape)
    return Affine.of(storage, generator(draw).uniform(0.01, 1.0, parts))


def with_blocks(draw: Draw, shape: Tensor) -> Tensor:
    """Makes room for blocks along an axis of a small tensor, now and then."""
    if len(shape) > 2 or draw(st.integers(0, 2)):
        return shape
    axis = draw(st.integers(0, len(shape) - 1))
    return tuple(size * 32 if place == axis else size for place, size in enumerate(shape))


def _codebook(draw: Draw, shape: Tensor, axis: int | None) -> Codebook:
    if draw(st.booleans()):
        return codebooks(draw, shape, axis, whole=draw(st.booleans()))
    return Codebook.named(draw(st.sampled_from(["nf4", "apot3", "apot5"])), draw(scales()))


def _power_of_two(draw: Draw, shape: Tensor, axis: int | None) -> PowerOfTwo:
    bits, per_octave = draw(st.integers(2, 8)), draw(st.sampled_from([1, 1, 2, 4]))
    code: PowerOfTwo = _scaled(draw, PowerOfTwo.of(bits, 1.0, per_octave), shape, axis)
    return code


def _float8(kind: type[Float8]) -> Drawn:
    return lambda draw, shape, axis: _scaled(draw, kind.of(1.0), shape, axis)


def _mxfp4(draw: Draw, shape: Tensor, axis: int | None) -> MXFP4:
    parts = _blocks(draw, shape, _BLOCKS["mxfp4"])
    return MXFP4.of(np.exp2(generator(draw).integers(-9, 3, parts)))


def _nvfp4(draw: Draw, shape: Tensor, axis: int | None) -> NVFP4:
    parts = _blocks(draw, shape, _BLOCKS["nvfp4"])
    return NVFP4.of(draw(scales()), generator(draw).integers(1, 0x7E, parts, endpoint=True))


KINDS: dict[str, Drawn] = {
    Codebook.kind: _codebook,
    PowerOfTwo.kind: _power_of_two,
    Float8E4M3.kind: _float8(Float8E4M3),
    Float8E5M2.kind: _float8(Float8E5M2),
    MXFP4.kind: _mxfp4,
    NVFP4.kind: _nvfp4,
}
"""How codes of each kind but affine are drawn, for a tensor and an axis."""

_BLOCKS = {MXFP4.kind: 32, NVFP4.kind: 16}


def _blocks(draw: Draw, shape: Tensor, block: int) -> Tensor:
    able = [axis for axis, size in enumerate(shape) if size and size % block == 0]
    chosen = draw(st.sampled_from(able))
    return tuple(size // block if axis == chosen else size for axis, size in enumerate(shape))


def _scaled(draw: Draw, code: Any, shape: Tensor, axis: int | None) -> Any:
    scale: Any = draw(scales())
    if axis is not None and draw(st.booleans()):
        varying = tuple(size if place == axis else 1 for place, size in enumerate(shape))
        scale = scale * generator(draw).uniform(0.25, 1.0, varying)
    low, high = code.scale_bounds
    scale = np.clip(scale, low * 1.01, high / 1.01)
    return replace(code, scale=FrozenArray(scale, np.float32))


def around_borders(draw: Draw, code: LevelCode, shape: Tensor) -> Array:
    """Draws real numbers at the borders between levels, beside them and far outside, in float32."""
    rng = generator(draw)
    low, high = code.real_bounds
    multiples = rng.choice([*code.borders, low * 1.5, high * 1.5], shape)
    with np.errstate(over="ignore"):
        near = (multiples * expand(code.step_sizes, shape)).astype(np.float32)
    moved = np.nextafter(near, rng.choice([-np.inf, np.inf], shape), dtype=np.float32)
    return np.where(rng.random(shape) < 0.5, near, moved)
