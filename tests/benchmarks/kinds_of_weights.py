"""How well each kind of code carries weights, beside what theory says.

Run `python -m tests.benchmarks.kinds_of_weights`. Gaussian weights are 2^20 numbers of a seed in
1024 columns; trained ones are the 36 matrices of MiniLM, where its package is installed (see
`tests/models/minilm.py`), of which the median counts. Scales are one a column, or one for each
block of a column.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import erf, log, log10, sqrt
from typing import TypeAlias

import numpy as np

from qir.report.tables import table
from qir.types import (
    MXFP4,
    NVFP4,
    Affine,
    Array,
    Code,
    Codebook,
    Float8E4M3,
    Float8E5M2,
    PowerOfTwo,
)
from tests.models import minilm

Fit: TypeAlias = Callable[[Array, tuple[int, ...]], Code]

LLOYD_MAX = {2: 9.30, 3: 14.62, 4: 20.22}
"""Decibels of the best levels for a normal distribution: Max, "Quantizing for Minimum Distortion",
1960, table I."""


@dataclass(frozen=True)
class Row:
    """A way to store weights.

    Args:
        name: What it is called.
        fit: Gives the code of numbers and the parts that have a scale.
        block: How many numbers of a column share a scale; None for all.
        theory: Decibels for Gaussian numbers, from how many share a scale; None where no formula is
            known.
    """

    name: str
    fit: Fit
    block: int | None = None
    theory: Callable[[int], float] | None = None

    def code(self, weights: Array) -> Code:
        """Returns the code of a matrix (inputs, outputs)."""
        inputs, outputs = weights.shape
        return self.fit(weights, (inputs // (self.block or inputs), outputs))


def uniform(bits: int, count: int) -> float:
    """Returns decibels of 2^bits - 1 equal steps up to the greatest magnitude of normal numbers.

    The error is uniform within a step: its power is step^2 / 12. The mean square of the greatest of
    some magnitudes is the integral of 2 t (1 - F(t)^count). A bit is 6.02 dB.

    Args:
        bits: The width.
        count: How many numbers share a step.
    """
    t = np.linspace(0, 10, 20001)
    below = np.array([erf(each / sqrt(2)) for each in t])
    square = float(np.trapezoid(2 * t * (1 - below**count), t))
    return 10 * log10(12 * (2 ** (bits - 1) - 1) ** 2 / square)


def best(bits: int, count: int) -> float:
    """Returns decibels of Lloyd's and Max's levels, whatever shares a scale."""
    return LLOYD_MAX[bits]


def floating(mantissa: int, count: int) -> float:
    """Returns decibels of floats without bounds whose significand is uniform in the logarithm.

    Squares of significands have the mean 1.5 / ln 2, the error has the power of a step of
    2^-mantissa: 6.02 dB a bit of the mantissa, and 14.1.
    """
    return 10 * log10(1.5 / log(2) * 12 * 4**mantissa)


def logarithmic(per_octave: int, count: int) -> float:
    """Returns decibels of powers without bounds, nearest in the logarithm, uniform there."""
    real = np.exp2(np.linspace(-0.5, 0.5, 100001) / per_octave)
    return float(-10 * np.log10(np.mean((1 - real) ** 2) / np.mean(real**2)))


def two_levels(weights: Array, parts: tuple[int, ...]) -> Code:
    """Affine codes of 4 bits with integer multipliers for the blocks."""
    return Affine.fit(weights, parts, 4).in_two_levels((1, parts[1]))


def rows() -> Iterator[Row]:
    """Returns the ways that the table compares, by their width."""
    for bits in (8, 6, 5, 4, 3):
        yield Row(f"affine {bits}", partial(Affine.fit, bits=bits), theory=partial(uniform, bits))
    yield Row("affine 4", partial(Affine.fit, bits=4), 32, partial(uniform, 4))
    yield Row("affine 4, two levels", two_levels, 32, partial(uniform, 4))
    yield Row("nf4", partial(Codebook.fit, levels="nf4"))
    yield Row("nf4", partial(Codebook.fit, levels="nf4"), 64)
    for bits in (3, 4, 5, 6):
        yield Row(f"apot{bits}", partial(Codebook.fit, levels=f"apot{bits}"))
    for bits in LLOYD_MAX:
        yield Row(f"k-means {bits}", partial(Codebook.fit, bits=bits), theory=partial(best, bits))
    for bits, each in ((3, 1), (4, 1), (4, 2), (5, 2), (6, 4)):
        fit = partial(PowerOfTwo.fit, bits=bits, per_octave=each)
        base = "2" if each == 1 else f"2^(1/{each})"
        yield Row(f"powers of {base}, {bits}", fit, theory=partial(logarithmic, each))
    yield Row("fp8_e4m3fn", Float8E4M3.fit, theory=partial(floating, 3))
    yield Row("fp8_e5m2", Float8E5M2.fit, theory=partial(floating, 2))
    yield Row("mxfp4", MXFP4.fit, 32)
    yield Row("nvfp4", NVFP4.fit, 16)


def gaussian(shape: tuple[int, int] = (1024, 1024)) -> Array:
    """Returns normal numbers of a seed, float32."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def trained() -> list[Array]:
    """Returns the matrices (inputs, outputs) of MiniLM's layers; none where it is not installed."""
    if not minilm.installed():
        return []
    return [
        weights.T
        for name, weights in minilm.load().items()
        if ".layer." in name and weights.ndim == 2
    ]


def decibels(code: Code, weights: Array) -> float:
    """Returns the signal-to-noise ratio (SQNR) of weights in a code."""
    error = code.decode(code.encode(weights)).astype(np.float64) - weights
    signal = np.sum(np.square(weights, dtype=np.float64))
    return float(10 * np.log10(signal / np.sum(np.square(error))))


def bits_a_weight(code: Code, weights: Array) -> float:
    """Returns how many bits a weight takes in a file, its share of the scales included."""
    scales = 32 * code.scale.array.size
    scales += 8 * code.multipliers.array.size if code.multipliers is not None else 0
    scales += 8 * code.block_scales.array.size if isinstance(code, NVFP4) else 0
    tables = 32 * len(code.levels) if isinstance(code, Codebook) else 0
    return code.storage.bits + (scales + tables) / weights.size


def weight_table(normal: Array, matrices: Sequence[Array]) -> list[str]:
    """Returns the lines of a table that compares all kinds.

    Args:
        normal: Gaussian numbers, a matrix whose rows are a multiple of 64.
        matrices: Trained ones, of such rows too.
    """
    lines = [("kind", "a scale for", "bits", "Gaussian", "theory", "MiniLM")]
    for row in rows():
        code = row.code(normal)
        count = row.block or len(normal)
        theory = "" if row.theory is None else f"{row.theory(count):.1f}"
        found = [decibels(row.code(weights), weights) for weights in matrices]
        lines.append(
            (
                row.name,
                "a column" if row.block is None else str(row.block),
                f"{bits_a_weight(code, normal):.2f}",
                f"{decibels(code, normal):.1f}",
                theory,
                f"{np.median(found):.1f}" if found else "",
            )
        )
    return table(lines, right=range(2, 6))


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description="signal-to-noise ratio of weights by kind").parse_args()
    print(*weight_table(gaussian(), trained()), sep="\n")


if __name__ == "__main__":
    main()
