"""Sines and cosines of numbers that span many periods stay float."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.passes.shared.periods import COARSEST

RNG = np.random.default_rng(0)
FREQUENCIES = np.geomspace(1, 1e-3, 4).astype(np.float32)


def embedding(t):
    angles = t[:, None] * FREQUENCIES
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def decibels(reach: float, steps: int = 64) -> tuple[float, qir.Graph]:
    data = [RNG.uniform(0, reach, steps).astype(np.float32) for _ in range(3)]
    integer = qir.quantize(qir.from_jax(embedding, data[0]), data)
    wanted, got = np.asarray(embedding(data[0])), qir.evaluate(integer, data[0])[0]
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum())), integer


@pytest.mark.parametrize("reach", [100.0, 1000.0, 16000.0])
def test_many_periods_stay_float_and_say_why(reach):
    found, integer = decibels(reach)
    assert found > 40
    reasons = [line.reason for line in qir.explain(integer).floats if line.op in ("sin", "cos")]
    assert len(reasons) == 2
    assert all("radians" in reason for reason in reasons)


def test_a_few_periods_are_looked_up():
    reach = 255 * COARSEST * 0.9
    found, integer = decibels(reach)
    assert not [line for line in qir.explain(integer).floats if line.op in ("sin", "cos")]
    # Three lines of noise at the least: that of the sine's operand is 25 dB where it is coarsest.
    assert found > 22
