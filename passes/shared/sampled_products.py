"""Rows of the operands of products, sampled from calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qir.ir import Graph, Node, Value
from qir.ops import Conv
from qir.ops.products import Products
from qir.ops.windows import pad_spatial, sliding
from qir.passes.shared.calibration_data import read_batches
from qir.pipeline import Context
from qir.types import Array

ROWS = 512
"""Rows of an operand that are kept."""
SAMPLES = 32
"""Samples of a batch from which they are taken where each has many."""
BATCHES = 8
"""Batches from which they are taken."""

_LARGEST_WEIGHT = 127


@dataclass(frozen=True, eq=False)
class SampledProduct:
    """A sum of products on some rows of its operand.

    Attributes:
        rows: What the weights meet [rows, taps, channels of a group, groups].
        counts: For how many rows of the operand each stands [rows].
        places: Of which sample each is [rows].
        weights: The weights [taps, channels of a group, groups, outputs of a group].
        rounded: What their codes of 8 bits, one for each output, mean.
        bias: The bias [groups * outputs of a group], or 0.
        bounds: What is read of the sum: relu reads nothing below 0.
    """

    rows: Array
    counts: Array
    places: Array
    weights: Array
    rounded: Array
    bias: Array
    bounds: tuple[float, float]

    @classmethod
    def of(cls, node: Node, samples: Array, generator: np.random.Generator) -> SampledProduct:
        """Samples the rows of a node's operand.

        Args:
            node: A convolution or dot with constant weights.
            samples: The operand on some samples.
            generator: Chooses places.
        """
        assert isinstance(node.op, Products)
        kernel, groups = node.inputs[1].array, node.op.channel_groups
        channels, outputs = kernel.shape[-2:]
        weights = kernel.reshape(-1, channels, groups, outputs // groups).astype(np.float32)
        steps = np.abs(weights).max(axis=(0, 1), keepdims=True) / _LARGEST_WEIGHT
        steps[steps == 0] = 1
        found, counts, places = _patches(node, samples, generator)
        # The channels of a group stand side by side.
        rows = found.reshape(len(found), -1, groups, channels).transpose(0, 1, 3, 2)
        bias = node.inputs[2].array if len(node.inputs) > 2 else np.zeros(outputs, np.float32)
        users = list(node.output.users)
        op = users[0].op if len(users) == 1 else None
        bounds = None if op is None else op.clip_bounds()
        return cls(
            np.ascontiguousarray(rows),
            counts,
            places,
            weights,
            np.rint(weights / steps) * steps,
            bias.astype(np.float32),
            bounds or (-np.inf, np.inf),
        )

    def sums(self, rows: Array, weights: Array) -> Array:
        """Returns what is read of the sums [rows, outputs]."""
        _, channels, groups, _ = weights.shape
        if groups == 1:
            flat = rows.reshape(len(rows), -1) @ weights.reshape(rows[0].size, -1)
        elif channels == 1:
            flat = np.einsum("rtg,tgo->rgo", rows[:, :, 0], weights[:, 0])
        else:
            flat = np.einsum("rtcg,tcgo->rgo", rows, weights)
        return np.asarray((flat.reshape(len(rows), -1) + self.bias).clip(*self.bounds))


def _patches(
    node: Node, samples: Array, generator: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Returns what weights meet [rows, taps * channels…], how many each is for, and its sample.

    Args:
        node: The node.
        samples: The operand on some samples.
        generator: Chooses places.
    """
    if not isinstance(node.op, Conv):
        flat = samples.reshape(-1, samples.shape[-1])
        chosen, counts = _some(np.abs(flat).max(axis=1), generator)
        return flat[chosen], counts, chosen * len(samples) // len(flat)
    window = node.inputs[1].type.known_shape[:-2]
    strides, dilation, padding = node.op.geometry(samples.shape[1:-1], window)
    # [samples, places…, channels, window…]
    padded = pad_spatial(samples, padding, 0)
    views = sliding(padded, window, strides, dilation)
    peaks = sliding(np.abs(padded).max(axis=-1, keepdims=True), window, strides, dilation)
    places = views.shape[: samples.ndim - 1]
    chosen, counts = _some(
        peaks.max(axis=tuple(range(samples.ndim - 1, peaks.ndim))).reshape(-1), generator
    )
    where = np.unravel_index(chosen, places)
    found = views[where]
    return np.moveaxis(found, 1, -1).reshape(len(found), -1), counts, where[0]


def _some(peaks: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    """Chooses rows, half of them those of the largest numbers; returns how many each is for."""
    if len(peaks) <= ROWS:
        return np.arange(len(peaks)), np.ones(len(peaks))
    order = np.argsort(-peaks, kind="stable")
    largest, rest = order[: ROWS // 2], order[ROWS // 2 :]
    drawn = generator.choice(rest, ROWS // 2, replace=False)
    counts = np.ones(ROWS)
    counts[ROWS // 2 :] = len(rest) / len(drawn)
    chosen = np.concatenate([largest, drawn])
    return chosen, counts


def sample_operands(
    graph: Graph, values: Sequence[Value], context: Context
) -> dict[Value, Array] | None:
    """Computes values on a few samples of the first batches; None where there is no data.

    Args:
        graph: A whole program.
        values: What is to be computed, each with samples along its first axis.
        context: The data and what computes.
    """
    data, executor = context.observations, context.executor
    if data is None or executor is None or not data.repeatable or not values:
        return None
    compute: Callable[..., list[Any]] = executor.probe(graph, values, _few)
    found: dict[Value, list[Array]] = {value: [] for value in values}
    for number, (arrays, sizes) in enumerate(read_batches(graph, data)):
        if number == BATCHES:
            break
        if sizes.empty:
            continue
        for value, array in zip(values, compute(*arrays), strict=True):
            found[value].append(np.asarray(array, np.float32))
    whole = {value: parts for value, parts in found.items() if parts}
    return {
        value: np.concatenate([part for part in parts if part.shape[1:] == parts[0].shape[1:]])
        for value, parts in whole.items()
    }


def _few(array: Any, xp: Any) -> Any:
    most = SAMPLES if array.ndim > 2 else ROWS
    step = max(1, array.shape[0] // most)
    return array[::step][:most]
