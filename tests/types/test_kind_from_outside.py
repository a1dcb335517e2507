"""A kind of code from outside: -1, 0 and 1, exact in the reference and in XLA."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

import qir
from qir.types import Array, DType, FrozenArray, LevelCode, code
from tests.registries import restored


@dataclass(frozen=True)
class Ternary(LevelCode):
    """-1, 0 or 1 times the scale in 2 bits: ternary weight networks, arXiv:1605.04711."""

    @property
    def levels(self) -> Array:
        """What -2, which means nothing, -1, 0 and 1 mean."""
        return np.array([np.nan, -1.0, 0.0, 1.0])


@pytest.fixture(autouse=True)
def _declared() -> Iterator[None]:
    with restored():
        code("ternary")(Ternary)
        yield


TEXT = """graph @dense(%real: f32[B,3], %weights: f32[3,2]) {
  %x = quantize(%real) : i8[B,3]{scale=0.1, zp=5}
  %k = quantize(%weights) : i2[3,2]{kind=ternary, scale=[0.5, 0.25], axis=1}
  %c = const [[1, -1], [0, 1], [-1, 1]] : i2[3,2]{kind=ternary, scale=0.5}
  %a = dot(%x, %k) : i32[B,2]{scale=%x*%k, axis=1}
  %b = dot(%x, %c) : i32[B,2]{scale=%x*%c}
  %y = requantize(%a) : i8[B,2]{scale=0.05}
  %z = dequantize(%k) : f32[3,2]
  return %y, %b, %k, %z
}"""


def test_it_is_exact_in_both_backends() -> None:
    graph, rng = qir.parse(TEXT), np.random.default_rng(0)
    inputs = rng.normal(0, 5, (64, 3)).astype("f"), rng.normal(0, 0.4, (3, 2)).astype("f")
    expected, found = qir.evaluate(graph, *inputs), qir.compile(graph)(*inputs)
    assert len(expected) == 4
    assert all(map(np.array_equal, expected, found))


def test_its_text_comes_back() -> None:
    assert qir.to_text(qir.parse(TEXT)).strip() == TEXT


def test_its_numbers_are_the_nearest_levels() -> None:
    ternary = Ternary(DType.I2, FrozenArray(0.5))
    assert ternary.range == (-1, 1)
    assert ternary.encode([-9, -0.26, -0.25, 0.25, 0.26, np.nan]).tolist() == [-1, -1, -1, 0, 1, 0]
