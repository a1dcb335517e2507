"""How near an integer program comes to the model that it was made of, and how it computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import isfunction
from typing import Any

import jax
import numpy as np

import qir
from qir.analysis.properties import is_float_op
from qir.ir import Graph, Value
from qir.ops import Cast, Const, Conv, Dequantize, Dot, Return
from qir.ops.rules import SameCode
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
        wanted: The outputs of the float model in JAX.
        found: Those of the reference interpreter.
        compared: Numbers in which XLA is bound to agree with the reference; see `exact_part`.
        differing: In how many of them it does not, with and without kernels.
    """

    graph: Graph
    wanted: tuple[Array, ...]
    found: tuple[Array, ...]
    compared: int
    differing: int

    @property
    def decibels(self) -> float:
        """Signal to quantization noise of the whole output, the least of all outputs."""
        return min(
            float(decibels(wanted.reshape(-1), found.reshape(-1)))
            for wanted, found in zip(self.wanted, self.found, strict=True)
        )

    @property
    def rows(self) -> float:
        """The 5th percentile of the decibels of rows, which lie along the last axis."""
        return min(
            float(np.percentile(decibels(wanted, found), 5, method="lower"))
            for wanted, found in zip(self.wanted, self.found, strict=True)
        )

    @property
    def cosines(self) -> Array:
        """The cosine between each row of the first output and what float gives."""
        wanted, found = self.wanted[0], self.found[0]
        lengths = np.linalg.norm(wanted, axis=-1) * np.linalg.norm(found, axis=-1)
        return np.asarray(np.sum(wanted * found, axis=-1) / lengths)

    @property
    def floats(self) -> tuple[str, ...]:
        """The ops that stay float, each as `op: reason`, without repetition."""
        lines = qir.explain(self.graph).floats
        return tuple(dict.fromkeys(f"{line.op}: {line.reason}" for line in lines))

    def __str__(self) -> str:
        return (
            f"{self.decibels:.1f} dB, rows {self.rows:.1f} dB, {self.differing} of "
            f"{self.compared:,} differing, float: {'; '.join(self.floats) or 'none'}"
        )


def measure(
    function: Callable[..., Any],
    samples: Sequence[tuple[Array, ...]],
    inputs: tuple[Array, ...],
    kernels: Sequence[bool | None] = (False, None),
) -> Figures:
    """Quantizes a model by default and compares it with float JAX.

    Args:
        function: The model.
        samples: Batches to calibrate on.
        inputs: The batch to measure on.
        kernels: The ways in which to compile it, each of which is compared with the reference.
    """
    graph = qir.from_jax(function, *inputs)
    with warnings.catch_warnings():
        # Too little accuracy is what the caller asserts, with the figures at hand.
        warnings.simplefilter("ignore")
        integer = qir.quantize(graph, samples)
    found = qir.evaluate(integer, *inputs)
    # A module of flax nnx counts as it runs, which it can't while it is traced.
    run = jax.jit(function) if isfunction(function) else function
    wanted = tuple(np.asarray(leaf) for leaf in jax.tree.leaves(run(*inputs)))
    part = exact_part(integer)
    fed = [inputs[integer.inputs.index(integer.value(value.name))] for value in part.inputs]
    right = found if part is integer else qir.evaluate(part, *fed)
    differing = 0
    for choice in kernels if part.outputs else ():
        results = qir.compile(part, kernels=choice)(*fed)
        for computed, number in zip(results, right, strict=True):
            differing += int(np.count_nonzero(np.asarray(computed) != number))
    return Figures(integer, wanted, found, sum(array.size for array in right), differing)


def exact_part(graph: Graph) -> Graph:
    """The part of a program that no floating-point arithmetic decides, which may be all of it.

    Its outputs are the codes that leave it. Moves and casts of float numbers are exact too.
    """
    rounded: set[Value] = set()
    leaving: dict[Value, None] = {}
    for node in graph.walk():
        exact = isinstance(node.op.quant, SameCode) or isinstance(node.op, (Cast, Const, Return))
        if rounded.intersection(node.inputs) or (is_float_op(node) and not exact):
            rounded.update(node.outputs)
            leaving |= {value: None for value in node.inputs if value not in rounded}
        elif isinstance(node.op, (Dequantize, Return)):
            leaving |= dict.fromkeys(node.inputs)
    if not rounded:
        return graph
    outputs = [
        value
        for value in leaving
        if value.type.quant is not None and value.node is not None and not value.is_constant
    ]
    return graph.extract([], outputs)


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
