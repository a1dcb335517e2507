"""What programs do on CUDA and TPU, computed on the CPU: the same integers, variant by variant.

No device is needed: the choice between variants is replaced, so that each is traced for the CPU.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qir.backends.xla import accumulate
from qir.backends.xla.accumulate import MAX_TERMS, dot_rows
from qir.ops import Conv, ConvTranspose, Dequantize, Dot, Lookup, Softmax
from qir.ops.op import Op
from qir.types import Affine, Array, DType
from tests.drawing import drawn
from tests.exact.test_reference_vs_xla import check_packed
from tests.strategies import STRATEGIES
from tests.strategies.base import Operand, program
from tests.strategies.programs import integer_programs


@pytest.fixture(params=["cuda", "tpu"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Traces the variants of a platform wherever there are some."""

    def choose(*arrays: Any, default: Callable[..., Any], **variants: Callable[..., Any]) -> Any:
        return variants.get(request.param, default)(*arrays)

    monkeypatch.setattr(lax, "platform_dependent", choose)
    return str(request.param)


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", [Conv, ConvTranspose, Dot, Lookup, Softmax, Dequantize])
def test_ops(cls: type[Op], platform: str) -> None:
    check_packed([case for case in drawn(STRATEGIES[cls], 48, pack=8) if case.coded])


@pytest.mark.hypothesis
def test_whole_programs(platform: str) -> None:
    check_packed(drawn(integer_programs(), 16, pack=4))


WINDOWS = [
    ((2, 9, 3), (5, 3, 4), Conv(padding="same"), DType.U8),
    ((1, 9, 7, 16), (3, 3, 16, 4), Conv((2, 1), padding="same"), DType.I8),
    ((1, 9, 7, 3), (3, 3, 3, 4), Conv((2, 2)), DType.I8),
    ((1, 9, 7, 16), (2, 3, 16, 4), Conv(padding=((0, 1), (2, 0)), dilation=(2, 1)), DType.U8),
    ((1, 4, 5, 6, 3), (3, 2, 3, 3, 4), Conv((1, 2, 2), padding="same"), DType.I8),
]


def test_windows(platform: str) -> None:
    rng = np.random.default_rng(0)
    cases = []
    for shape, window, op, storage in WINDOWS:
        low, high = storage.bounds
        x = rng.integers(low, high + 1, shape).astype(storage.numpy)
        kernel = rng.integers(-128, 128, window, np.int8)
        code = Affine.of(storage, 0.5, 7)
        cases.append(
            program(op, Operand(x, code), Operand(kernel, Affine.of(DType.I8, 0.25), constant=True))
        )
    check_packed(cases)


@pytest.mark.parametrize(
    ("shape", "weights", "batch"),
    [
        ((1, 40), (40, 5), 0),
        ((1, 1, 1, 8), (8, 3), 0),
        ((6, 8), (8, 1), 0),
        ((3, 1, 8), (3, 8, 1), 1),
    ],
)
def test_products_with_a_vector(
    shape: tuple[int, ...], weights: tuple[int, ...], batch: int, platform: str
) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-128, 128, size).astype(np.int8) for size in (shape, weights))
    expected = x.astype(np.int32) @ w.astype(np.int32)
    assert np.array_equal(dot_rows(jnp.asarray(x), jnp.asarray(w), None, batch), expected)


def test_long_sums_are_added_up_from_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, weights = (rng.integers(-128, 128, shape).astype(np.int8) for shape in [(3, 37), (37, 5)])
    expected: Array = x.astype(np.int32) @ weights.astype(np.int32)
    monkeypatch.setattr(accumulate, "MAX_TERMS", 10)
    assert np.array_equal(dot_rows(jnp.asarray(x), jnp.asarray(weights), None), expected)


def test_no_part_of_a_sum_leaves_int32() -> None:
    assert MAX_TERMS * 128 * 128 < 2**31 <= (MAX_TERMS + 1) * 128 * 128
