"""Broadcasts, and ops that take, repeat, surround or count places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from qir.ops import Broadcast, Embedding, Gather, Iota, Pad, Reverse, Slice, Split, Tile
from qir.types import MXFP4, NVFP4, Affine, Code, Dim, DType, FrozenArray, LevelCode, Size
from tests.strategies.base import (
    FLOATS,
    NARROW,
    Case,
    Draw,
    Operand,
    cases_of,
    coded_operand,
    codes,
    float_operand,
    generator,
    in_float,
    program,
    scales,
    shapes,
)
from tests.strategies.kinds import level_codes, with_blocks
from tests.strategies.moves import any_operand


@cases_of(Broadcast)
def broadcasts(draw: Draw, cls: type[Broadcast]) -> Case:
    sizes = draw(shapes((1, 3)))
    shape = tuple(draw(st.sampled_from([1, size])) for size in sizes)
    x = any_operand(draw, shape, draw(st.integers(0, len(shape) - 1)), everywhere=True)
    places = list(range(len(sizes)))
    result: list[Size] = [
        size if size == 1 or isinstance(size, Dim) else wanted
        for size, wanted in zip(x.type.shape, sizes, strict=True)
    ]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(result)))
        places = [place + (place >= at) for place in places]
        result.insert(at, draw(st.integers(1, 3)))
    named = Dim.named("B")
    if named in result and draw(st.booleans()):
        # A size that no axis of the operand becomes, but another place of the program tells.
        result.insert(0, named)
        places = [place + 1 for place in places]
    return program(cls(tuple(result), tuple(places)), x)


@cases_of(Slice)
def slices(draw: Draw, cls: type[Slice]) -> Case:
    shape = draw(shapes())
    x = any_operand(draw, shape, draw(st.integers(0, len(shape) - 1)), everywhere=True)
    able = [axis for axis, size in enumerate(x.type.shape) if isinstance(size, int)]
    axes = sorted(draw(st.sets(st.sampled_from(able)))) if able else []
    ends = [sorted(draw(st.tuples(*[st.integers(0, shape[axis])] * 2))) for axis in axes]
    start, limit = tuple(end[0] for end in ends), tuple(end[1] for end in ends)
    stride = tuple(draw(st.integers(1, 3)) for _ in axes)
    return program(cls(tuple(axes), start, limit, draw(st.sampled_from([(), stride]))), x)


@cases_of(Split)
def splits(draw: Draw, cls: type[Split]) -> Case:
    shape = draw(shapes((2, 4)))
    axis = draw(st.integers(1, len(shape) - 1))
    x = any_operand(draw, shape, draw(st.integers(0, len(shape) - 1)))
    cuts = sorted(draw(st.lists(st.integers(0, shape[axis]), max_size=3)))
    return program(cls(axis, tuple(np.diff([0, *cuts, shape[axis]]).tolist())), x)


@cases_of(Gather)
def gathers(draw: Draw, cls: type[Gather]) -> Case:
    shape, index_shape = draw(shapes()), draw(shapes((0, 2)))
    axis = draw(st.integers(0, len(shape) - 1))
    x = any_operand(draw, shape, (axis + 1) % len(shape) if len(shape) > 1 else 0)
    if x.type.quant is not None and x.type.quant.grid and x.type.quant.grid[axis] > 1:
        x = float_operand(draw, shape)
    return program(cls(axis), x, places(draw, shape[axis], index_shape))


def places(draw: Draw, size: int, shape: tuple[int, ...]) -> Operand:
    """Draws indices of an axis of some size, most of them inside or near it."""
    element = draw(st.sampled_from([DType.I32, DType.I8, DType.U8, DType.U32]))
    rng = generator(draw)
    indices = rng.integers(-2, size + 2, shape)
    wild = rng.integers(*element.bounds, shape, endpoint=True)
    chosen = np.where(rng.random(shape) < 0.2, wild, indices).astype(element.numpy)
    return Operand(chosen, element, constant=draw(st.booleans()))


@cases_of(Embedding)
def embeddings(draw: Draw, cls: type[Embedding]) -> Case:
    shape, ids_shape = draw(shapes((1, 3))), draw(shapes((0, 2)))
    ids = places(draw, shape[0], ids_shape)
    factor = draw(st.sampled_from([1.0, 8.0, 0.3]))
    if in_float(draw):
        return program(cls(factor), float_operand(draw, shape, draw(st.sampled_from(FLOATS))), ids)
    kind = draw(st.sampled_from(["rows", "blocks", "levels"]))
    if kind != "rows":
        shape = with_blocks(draw, tuple(2 * size for size in shape))
        ids = places(draw, shape[0], ids_shape)
    code: Code = draw(codes((*NARROW, DType.I16), shape=shape, axis=0))
    if kind == "blocks":
        code = _in_blocks(draw, code, shape)
    elif kind == "levels":
        code = _in_blocks(draw, level_codes(draw, shape, draw(st.sampled_from([0, None]))), shape)
    wide = Affine.of(DType.I32, draw(scales()) / 256, bounds=(-(2**17) + 1, 2**17 - 1))
    to = draw(st.one_of(st.just(None), codes((*NARROW, DType.I16)), st.just(wide)))
    to = to if code.step_bounds is not None else None
    table = coded_operand(draw, code, shape, constant=draw(st.booleans()))
    return program(cls(factor, to), table, ids)


def _in_blocks(draw: Draw, code: Code, shape: tuple[int, ...]) -> Code:
    """Gives a code scales or multipliers of blocks of 2, or the latter for each number."""
    rng, size = generator(draw), draw(st.sampled_from([1, 2]))
    parts = tuple(count // draw(st.sampled_from([size, count])) for count in shape)
    if code.per_tensor and draw(st.booleans()) and isinstance(code, Affine):
        return replace(code, scale=FrozenArray(code.scale.array * rng.uniform(0.5, 1.0, parts)))
    if isinstance(code, NVFP4 | MXFP4):
        return code
    most = 255
    if isinstance(code, LevelCode):
        greatest = float(code.scale.array.max())
        most = next(n for n in (most, 16, 2, 1) if n == 1 or n * greatest <= code.scale_bounds[1])
    return replace(code, multipliers=FrozenArray(rng.integers(1, most + 1, parts)))


@cases_of(Pad)
def pads(draw: Draw, cls: type[Pad]) -> Case:
    shape = draw(shapes())
    last = len(shape) - 1
    x = any_operand(draw, shape, last)
    fixed = [isinstance(size, Dim) for size in x.type.shape]
    fixed[last] |= x.type.quant is not None and not x.type.quant.per_tensor
    low, high = (tuple(0 if f else draw(st.integers(0, 2)) for f in fixed) for _ in range(2))
    value = draw(st.one_of(st.floats(-100, 100, width=32), st.sampled_from([0.0, np.inf, -np.inf])))
    return program(cls(low, high, value), x)


@cases_of(Reverse)
def reverses(draw: Draw, cls: type[Reverse]) -> Case:
    shape = draw(shapes())
    x = any_operand(draw, shape, draw(st.integers(0, len(shape) - 1)), everywhere=True)
    return program(cls(tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1)))))), x)


@cases_of(Tile)
def tiles(draw: Draw, cls: type[Tile]) -> Case:
    shape = draw(shapes())
    x = any_operand(draw, shape, draw(st.integers(0, len(shape) - 1)), everywhere=True)
    return program(cls(tuple(draw(st.integers(1, 3)) for _ in shape)), x)


@cases_of(Iota)
def iotas(draw: Draw, cls: type[Iota]) -> Case:
    shape = draw(shapes((1, 4), (0, 100)))
    element = draw(st.sampled_from([DType.I32, DType.U8, DType.I8, DType.F32, DType.BF16]))
    return program(cls(shape, element, draw(st.integers(0, len(shape) - 1))))
