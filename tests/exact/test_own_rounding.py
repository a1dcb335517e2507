"""Backends compute a rounding mode from outside by its machine form, knowing nothing of it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import ArrayLike

import qir
from qir.backends.xla.compile import compile_graph
from qir.errors import QirError, UnsupportedError
from qir.numbers.int32 import Int64Array, IntegerArray
from qir.numbers.rounding import (
    ROUNDINGS,
    MachineForm,
    Multiplier,
    RoundingMode,
    Scaled,
    register_rounding,
    rounding_mode,
)


class HalfDown(RoundingMode):
    """The multipliers of fixed31, and half toward minus infinity: `ceil(acc * m - 1/2)`."""

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        return rounding_mode("fixed31").multipliers(input_scale, output_scale)

    def check(self, multiplier: Multiplier) -> None:
        rounding_mode("fixed31").check(multiplier)

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        product = acc.astype(np.int64) * multiplier.value.astype(np.int64)
        shift = multiplier.shift.astype(np.int64)
        rounded = (product + (np.int64(1) << (shift - 1)) - 1) >> shift
        return np.asarray(np.clip(rounded, -(2**31), 2**31 - 1))

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> MachineForm | None:
        return self.by_thresholds(multiplier, zero_point, low, high)


class Coarse(HalfDown):
    """Multipliers of seven bits, and half toward plus infinity: a form that kernels know."""

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        fine = rounding_mode("fixed31").multipliers(input_scale, output_scale)
        return Multiplier(fine.value.astype(np.int32) >> 24 << 24, fine.shift)

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        return rounding_mode("fixed31").apply(acc, multiplier)

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> MachineForm | None:
        return Scaled(multiplier.value.astype(np.int32), multiplier.shift)


class Floats(HalfDown):
    """Forgets to return integers."""

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Any:
        return super().apply(acc, multiplier).astype(np.float64)


class Falling(HalfDown):
    """Wraps as int16 does: monotone near 0 only."""

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        return super().apply(acc, multiplier).astype(np.int16).astype(np.int64)


class Rippled(HalfDown):
    """Falls within every second step."""

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        return super().apply(acc, multiplier) ^ ((acc.astype(np.int64) >> 4) & 1)


class Drawn(HalfDown):
    """Rounds as a generator of random numbers says."""

    generator = np.random.default_rng(0)

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        found = super().apply(acc, multiplier)
        return found + self.generator.integers(0, 2, found.shape)


class Formula(HalfDown):
    """Its own thresholds are late by one."""

    def thresholds(self, multiplier: Multiplier, steps: ArrayLike) -> Int64Array:
        return np.minimum(super().thresholds(multiplier, steps) + 1, 2**31 - 1)


class Formless(HalfDown):
    """Has no form for 8 bits either."""

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> MachineForm | None:
        return None


class Misshapen(HalfDown):
    """Gives a form of its own making."""

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> Any:
        return multiplier.value, multiplier.shift


ACC = np.arange(-2048, 2048, dtype=np.int32)


def program(mode: str, ratio: float) -> qir.Graph:
    return qir.parse(
        f"""
graph @own(%a: i32[4096]{{scale={ratio!r}}}) {{
  %y = requantize(%a) {{rounding = {mode}}} : i8[4096]{{scale=1, zp=3}}
  return %y
}}"""
    )


def agrees(graph: qir.Graph, *, kernels: bool) -> bool:
    expected = qir.evaluate(graph, ACC)
    return all(map(np.array_equal, compile_graph(graph, kernels=kernels)(ACC), expected))


def test_a_mode_with_thresholds_is_exact_and_left_to_xla_by_kernels() -> None:
    pytest.importorskip("llvmlite")
    with patch.dict(ROUNDINGS):
        register_rounding("half_down")(HalfDown)
        graph = program("half_down", 0.125)
        (found,) = qir.evaluate(graph, np.array([-12, -4, 4, 12, 20] * 820, np.int32)[:4096])
        assert found[:5].tolist() == [1, 2, 3, 4, 5]
        assert agrees(graph, kernels=False)
        assert agrees(graph, kernels=True)
        text = compile_graph(graph, kernels=True).partition()
        assert "no kernel for the machine form of the rounding half_down" in text


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        (Floats, "expected apply to return integers, such as int64, got float64"),
        (Falling, "expected a monotone mode, got a lesser integer of accumulator"),
        (Rippled, "expected a monotone mode"),
        (Drawn, "expected a monotone mode"),
        (Misshapen, "expected machine_form to return Scaled, Float32, Thresholds or None, got"),
        (Formula, "as its thresholds say, got"),
    ],
)
def test_a_mode_that_breaks_its_contract_is_refused_by_name(
    mode: type[RoundingMode], problem: str
) -> None:
    with patch.dict(ROUNDINGS):
        register_rounding("broken")(mode)
        graph = program("broken", 0.0123)
        with pytest.raises(QirError, match=rf"rounding broken: .*{problem}"):
            compile_graph(graph, kernels=False)


class Partial(RoundingMode):
    """Has no meaning."""

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        return rounding_mode("fixed31").multipliers(input_scale, output_scale)


def test_a_mode_without_its_methods_is_refused_where_it_is_declared() -> None:
    partial: Any = Partial
    foreign: Any = dict
    with pytest.raises(QirError, match="rounding own: expected Partial to define apply, check"):
        register_rounding("own")(partial)
    with pytest.raises(QirError, match="rounding own: expected dict to derive from RoundingMode"):
        register_rounding("own")(foreign)


def test_a_mode_of_floats_is_refused_by_the_reference() -> None:
    with patch.dict(ROUNDINGS):
        register_rounding("broken")(Floats)
        graph = program("broken", 0.0123)
        with pytest.raises(QirError, match=r"rounding broken: .*got float64"):
            qir.evaluate(graph, ACC)


def test_a_mode_without_a_form_for_8_bits_is_told_so() -> None:
    with patch.dict(ROUNDINGS):
        register_rounding("formless")(Formless)
        graph = program("formless", 0.0123)
        with pytest.raises(UnsupportedError) as caught:
            compile_graph(graph, kernels=False)
    assert (
        "requantize %y: expected a machine form of the rounding formless for results in "
        "[-128, 127], got None from its machine_form; by_thresholds makes one"
    ) in str(caught.value)


def test_a_form_that_kernels_know_is_computed_by_them() -> None:
    pytest.importorskip("llvmlite")
    with patch.dict(ROUNDINGS):
        register_rounding("coarse")(Coarse)
        graph = program("coarse", 0.0123)
        (fine,), (found,) = (
            qir.evaluate(each, ACC) for each in (program("fixed31", 0.0123), graph)
        )
        assert not np.array_equal(fine, found)
        assert agrees(graph, kernels=True)
        assert "no kernel" not in compile_graph(graph, kernels=True).partition()
