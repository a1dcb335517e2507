"""How near an integer program comes to the model that it was made of, and how it computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import qir
from qir.ir import Graph
from qir.ops import Conv, Dot
from qir.types import Array

LEAST = 28.0
"""Decibels that a transformer of random weights keeps in eight bits, over the whole output."""
LEAST_OF_ROWS = 20.0
"""Decibels that 19 of 20 rows keep."""


@dataclass(frozen=True)
class Figures:
    """What was measured of a model.

    Args:
        graph: The integer program.
        wanted: The output of the float model in JAX.
        found: That of the reference interpreter.
        differing: Numbers in which XLA, with and without kernels, differs from the reference.
    """

    graph: Graph
    wanted: Array
    found: Array
    differing: int

    @property
    def decibels(self) -> float:
        """Signal to quantization noise of the whole output."""
        return float(decibels(self.wanted.reshape(-1), self.found.reshape(-1)))

    @property
    def rows(self) -> float:
        """The 5th percentile of the decibels of its rows, which lie along the last axis."""
        return float(np.percentile(decibels(self.wanted, self.found), 5))

    @property
    def cosines(self) -> Array:
        """The cosine between each row and what float gives."""
        lengths = np.linalg.norm(self.wanted, axis=-1) * np.linalg.norm(self.found, axis=-1)
        return np.sum(self.wanted * self.found, axis=-1) / lengths

    @property
    def floats(self) -> tuple[str, ...]:
        """The ops that stay float, each as `op reason`, without repetition."""
        lines = qir.explain(self.graph).floats
        return tuple(dict.fromkeys(f"{line.op}: {line.reason}" for line in lines))

    def __str__(self) -> str:
        return (
            f"{self.decibels:.1f} dB, rows {self.rows:.1f} dB, {self.differing} differing, "
            f"float: {'; '.join(self.floats) or 'none'}"
        )


def measure(
    function: Callable[..., Any],
    samples: Sequence[tuple[Array, ...]],
    inputs: tuple[Array, ...],
    kernels: Sequence[bool | None] = (False, None),
) -> Figures:
    """Quantizes a model by default and compares it with float JAX.

    Args:
        function: The model, of one output.
        samples: Batches to calibrate on.
        inputs: The batch to measure on.
        kernels: The ways in which to compile it, each of which is compared with the reference.
    """
    graph = qir.from_jax(function, *inputs)
    with warnings.catch_warnings():
        # Too little accuracy is what the caller asserts, with the figures at hand.
        warnings.simplefilter("ignore")
        integer = qir.quantize(graph, samples)
    (found,) = qir.evaluate(integer, *inputs)
    differing = 0
    for choice in kernels:
        (computed,) = qir.compile(integer, kernels=choice)(*inputs)
        differing += int(np.count_nonzero(np.asarray(computed) != found))
    return Figures(integer, np.asarray(jax.jit(function)(*inputs)), found, differing)


def decibels(signal: Array, noisy: Array) -> Array:
    """Signal to noise ratios along the last axis; infinite where both are the same."""
    wanted = signal.astype(np.float64)
    noise = np.square(wanted - noisy).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = 10 * np.log10(np.square(wanted).sum(-1) / noise)
    return np.where(noise == 0, np.inf, ratios)


def wide_products(graph: Graph) -> list[str]:
    """Names of the convolutions and dots with an operand that is not one of 8 bits or fewer."""
    return [
        node.output.name
        for node in graph.walk()
        if isinstance(node.op, (Conv, Dot))
        and any(
            value.type.quant is None or value.type.quant.storage.bits > 8
            for value in node.inputs[:2]
        )
    ]
