"""Norms on codes: how near they are to real numbers, at the ends of their codes, and refusals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from qir.errors import QirError
from qir.ops import GroupNorm, L2Norm, LayerNorm, RmsNorm
from qir.ops.normalization import Normalization
from qir.ops.op import infer
from qir.ops.rules import Coded
from qir.types import Affine, Array, DType, TensorType

I8 = Affine.of(DType.I8, 0.02, -5)
U8 = Affine.of(DType.U8, 3e-3)
WIDE = Affine.of(DType.I32, 1e-4, bounds=(1 - 2**17, 2**17 - 1))
CORES = [
    LayerNorm((1,)),
    LayerNorm((1,), guard="root"),
    RmsNorm((1,)),
    RmsNorm((1,), guard="max"),
    L2Norm((1,)),
    L2Norm((1,), guard="max"),
    L2Norm((1,), guard="root"),
]


def extremes(count: int, code: Affine) -> Array:
    """Rows at the ends of a code: all equal, one-hot, alternating, tiny, anywhere."""
    rng = np.random.default_rng(count)
    low, high = code.range
    point = int(code.zero_points)
    first = np.arange(count) == 0
    rows = [
        np.full(count, low),
        np.full(count, high),
        np.full(count, point),
        np.where(first, min(point + 1, high), point),
        np.where(first, high, low),
        np.where(np.arange(count) % 2, high, low),
        np.clip(point + rng.integers(-2, 3, count), low, high),
        rng.integers(low, high, count, endpoint=True),
    ]
    return np.array(rows).astype(code.storage.numpy)


def parameters(count: int) -> tuple[Array, Array]:
    """Gamma with zeros, negatives and very different sizes, and beta."""
    rng = np.random.default_rng(count + 1)
    gamma = rng.normal(0, 1, count) * 10.0 ** rng.integers(-6, 2, count)
    gamma[0] = 1
    gamma[2:3] = 0
    return gamma.astype(np.float32), rng.normal(0, 1, count).astype(np.float32)


def on_codes(op: Normalization, x: Array, code: Affine, to: Affine, *floats: Array) -> Array:
    """Runs the integer meaning."""
    types = [TensorType(x.shape, code)]
    types += [TensorType(array.shape, DType.F32) for array in floats]
    coded = op.with_code(to)
    (result,) = infer(coded, types)
    operands = [Coded(array, given) for array, given in zip((x, *floats), types, strict=True)]
    return np.asarray(coded.integer(operands, result))


def with_epsilon(op: Normalization, epsilon: float) -> Normalization:
    """Returns a norm with another epsilon."""
    return type(op)(**{**op.attributes(), "epsilon": epsilon})


def real(op: Normalization, x: Array, code: Affine, *floats: Array) -> Array:
    """Computes the norm in extended precision and in steps, whose mean is exact; beta for 0 / 0."""
    steps = x.astype(np.longdouble) - int(code.zero_points)
    gamma, beta = (array.astype(np.longdouble) for array in floats)
    in_steps = with_epsilon(op, op.epsilon / float(code.scale.array) ** 2)
    found = np.asarray(in_steps.evaluate(steps, gamma, beta))
    return np.where(np.isfinite(found), found, beta)


def allowance(op: Normalization, x: Array, code: Affine, to: Affine, gamma: Array) -> Array:
    """How far a step count may be off: the rounding, t's resolution, W's and the multiplier's."""
    form = op.standard(TensorType(x.shape, code))
    resolution = np.abs(gamma) / float(to.scale.array) * 2.0 ** -(form.result_fraction + 1)
    # Epsilon is rounded to a unit of W, whose least is that of one number a step from the others.
    off = 0.5 if form.fraction >= 0 else 0.5 + 1
    least = max(1, form.factor - 1) * 2.0**form.fraction + float(form.epsilon.min())
    relative = off / least / 2 + 2.0**-28
    return np.asarray(0.5 + resolution + relative * (2.0**7 if to.storage is DType.I8 else 2.0**15))


@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 1e4])
@pytest.mark.parametrize("count", [1, 2, 3, 384, 4096])
@pytest.mark.parametrize("code", [I8, U8, WIDE], ids=["i8", "u8", "wide"])
def test_it_is_the_real_norm_but_for_one_rounding(count: int, code: Affine, epsilon: float) -> None:
    x, floats = extremes(count, code), parameters(count)
    for core in CORES:
        op = with_epsilon(core, epsilon)
        exact = real(op, x, code, *floats)
        peak = float(np.max(np.abs(exact)))
        for to in (
            Affine.of(DType.I8, peak / 127, 3),
            Affine.of(DType.I32, peak / 2**15, bounds=(1 - 2**17, 2**17 - 1)),
        ):
            found = on_codes(op, x, code, to, *floats)
            want = exact / float(to.scale.array) + int(to.zero_points)
            off = np.abs(found - np.clip(want, *to.range))
            allowed = allowance(op, x, code, to, floats[0])
            assert np.all(off <= allowed), (op, to, np.max(off - allowed))
            assert np.max(allowed) < (0.51 if to.storage is DType.I8 else 1.5)


@pytest.mark.parametrize("core", CORES, ids=lambda op: op.name)
def test_rows_without_any_spread_give_beta(core: Normalization) -> None:
    to = Affine.of(DType.I8, 0.05, 7)
    gamma, beta = parameters(5)
    zero = np.full((3, 5), int(I8.zero_points), np.int8)
    found = on_codes(core, zero, I8, to, gamma, beta)
    assert np.array_equal(found, np.broadcast_to(to.encode(beta), found.shape))


def test_a_code_for_each_channel_is_normalized_away() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (2, 6, 6, 8)).astype(np.int8)
    to = Affine.of(DType.I8, 4 / 127)
    scales = np.geomspace(0.01, 10, 8).reshape(1, 1, 1, 8)
    points = rng.integers(-9, 9, (1, 1, 1, 8))
    varying = Affine.of(DType.I8, scales, points)
    op = LayerNorm((1, 2), 0.0)
    assert np.array_equal(on_codes(op, x, varying, to), on_codes(op, x, I8, to))
    across = LayerNorm((3,)).with_code(to)
    with pytest.raises(QirError, match="varies along axis 3"):
        infer(across, [TensorType(x.shape, varying)])


def test_groups_are_layer_norms_of_their_channels() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (2, 3, 4, 6)).astype(np.int8)
    to = Affine.of(DType.I8, 4 / 127)
    found = on_codes(GroupNorm(3), x, I8, to)
    parts = [on_codes(LayerNorm((1, 2, 3)), part, I8, to) for part in np.split(x, 3, axis=3)]
    assert np.array_equal(found, np.concatenate(parts, axis=3))


@pytest.mark.parametrize(
    ("op", "types", "message"),
    [
        (LayerNorm((2,)), [TensorType((2, 3), DType.F32)], "expected axes below 2"),
        (LayerNorm((1,)), [TensorType((2, 0), DType.F32)], "at least one number"),
        (GroupNorm(4), [TensorType((2, 6), DType.F32)], "channels that 4 divides"),
        (
            RmsNorm((1,)),
            [TensorType((2, 3), DType.F32), TensorType((4, 1, 3), DType.F32)],
            "gamma and beta that broadcast",
        ),
        (LayerNorm((1,)).with_code(I8), [TensorType((2, 3), DType.F32)], "a coded operand"),
        (
            LayerNorm((1,)).with_code(I8),
            [TensorType((2, 3), I8), TensorType((3,), I8)],
            "gamma and beta in floating point",
        ),
        (
            LayerNorm((1,)).with_code(I8),
            [TensorType((2, 10**4), WIDE)],
            "at most 8192 numbers for each statistic",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    op: Normalization, types: Sequence[TensorType], message: str
) -> None:
    with pytest.raises(QirError, match=message):
        infer(op, types)


def test_an_epsilon_that_is_no_number_is_refused() -> None:
    with pytest.raises(QirError, match="finite epsilon of at least 0"):
        LayerNorm((1,), -1e-5)
    with pytest.raises(QirError, match="at least one axis"):
        RmsNorm(())
