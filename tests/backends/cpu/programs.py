"""Programs for kernels: sums of products with what follows them, and drawn ones of each op."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

# Imported to register the rules.
import qir.backends.native.patterns  # noqa: F401  # pyright: ignore[reportUnusedImport]
from qir.backends.cpu.target import LlvmInstructionSet
from qir.backends.native.pattern import PATTERNS, Match, match
from qir.ir import Graph
from qir.ops import Add, Conv, Dequantize, Dot, Requantize
from qir.ops.regions import RegionOp
from qir.types import Affine, Array, DType, TensorType
from tests import drawing
from tests.strategies import STRATEGIES
from tests.strategies.base import Case

EPILOGUES = ("fixed31", "f32_rne", "f32_rne_wide", "sum", "real", "accumulator")


@dataclass(frozen=True)
class Linear:
    """A sum of products.

    Attributes:
        op: The op.
        shape: Of x.
        window: Of the weights.
        epilogue: What follows it.
        storage: Of x; what is stored is the other type of 8 bits.
        ends: Whether all numbers are at the ends of their range, rather than anywhere.
    """

    op: Conv | Dot
    shape: tuple[int, ...]
    window: tuple[int, ...]
    epilogue: str = "fixed31"
    storage: DType = DType.I8
    ends: bool = False

    def __str__(self) -> str:
        return f"{self.op} {self.shape} {self.window} {self.epilogue} {self.storage.value}"

    def build(self) -> tuple[Graph, list[Array]]:
        """Returns the program, and arrays to run it on."""
        rng = np.random.default_rng(7)
        other = DType.U8 if self.storage is DType.I8 else DType.I8
        code = Affine.of(self.storage, 0.021, 77 if self.storage is DType.U8 else -3)
        scale = np.float32(0.013) * rng.uniform(0.5, 2, self.window[-1]).astype(np.float32)
        weight_code = Affine.of(DType.I8, scale.reshape((1,) * (len(self.window) - 1) + (-1,)))
        graph = Graph("g", [("x", TensorType(self.shape, code))])
        at = graph.at_end()
        inputs = [self._stored(self.storage, self.shape, rng)]
        kernel = at.const(self._stored(DType.I8, self.window, rng), "kernel", weight_code)
        bias_code = Affine.of(DType.I32, np.float64(code.scale.array) * scale.astype(np.float64))
        numbers = rng.integers(-9999, 9999, self.window[-1]).astype(np.int32)
        result = at.emit(self.op, graph.inputs[0], kernel, at.const(numbers, "bias", bias_code))
        if self.epilogue == "real":
            result = at.emit(Dequantize(), result)
        elif self.epilogue != "accumulator":
            # With the smallest scale, most sums come out beyond int32.
            spread = 1e-9 if self.epilogue == "f32_rne_wide" else 0.031
            to = Affine.of(
                other,
                spread * np.sqrt(np.prod(self.window[:-1])),
                131 if other is DType.U8 else 5,
            )
            rounding = "f32_rne" if "f32_rne" in self.epilogue else "fixed31"
            clamp = (to.range[0] + 9, to.range[1] - 4)
            result = at.emit(Requantize(to, rounding, clamp=clamp), result)
        if self.epilogue == "sum":
            added = graph.add_input("y", TensorType(result.type.shape, code))
            inputs.append(self._stored(self.storage, added.type.known_shape, rng))
            result = at.emit(Add(Affine.of(other, 0.07, 3)), result, added)
        graph.set_outputs([result])
        return graph, inputs

    def _stored(self, storage: DType, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        low, high = storage.bounds
        drawn = (
            rng.choice([low, high], shape)
            if self.ends
            else rng.integers(low, high, shape, endpoint=True)
        )
        return drawn.astype(storage.numpy)


GEOMETRIES = (
    Linear(Dot(), (3, 40), (40, 37)),
    Linear(Dot(), (1, 5), (5, 3)),
    Linear(Conv(), (1, 5, 7, 24), (1, 1, 24, 33)),
    Linear(Conv((2, 2), "same"), (2, 9, 11, 20), (3, 3, 20, 17)),
    Linear(Conv((2, 2), "same"), (1, 15, 13, 3), (7, 7, 3, 24)),
    Linear(Conv((1,), ((3, 2),), (2,)), (2, 30, 18), (4, 18, 32)),
    Linear(Conv((2, 1, 2), "same"), (1, 4, 5, 6, 17), (2, 3, 3, 17, 16)),
    Linear(Conv((1, 2), "same", (), 2), (2, 6, 7, 34), (3, 2, 17, 66)),
    Linear(Conv((), "same", (), 40), (1, 9, 8, 40), (3, 3, 1, 40)),
    Linear(Conv((2, 2), "same", (), 5), (1, 9, 8, 5), (3, 3, 1, 10)),
    Linear(Conv((), "same"), (1, 12, 14, 32), (3, 3, 32, 48)),
    Linear(Conv(), (1, 20, 20, 16), (1, 1, 16, 64)),
)
"""What is summed: small and large, with tails, strides, dilation, groups, 1 to 3 dimensions."""


def linear_programs(epilogue: str) -> Iterator[Linear]:
    """Returns each geometry with an epilogue, of both types; accumulators at the extremes."""
    for geometry in GEOMETRIES:
        for storage in (DType.I8, DType.U8):
            ends = epilogue == "accumulator"
            yield replace(geometry, epilogue=epilogue, storage=storage, ends=ends)


def drawn(target: LlvmInstructionSet, size: int) -> Iterator[Case]:
    """Draws small programs of ops that have kernels, where these take them.

    Args:
        target: The instruction set.
        size: How many of each op in the slow tier.
    """
    for op in sorted(PATTERNS, key=lambda op: op.__name__):
        if issubclass(op, RegionOp):
            continue  # Its steps are those of other ops; test_loop has its own.
        for case in drawing.drawn(STRATEGIES[op], size, pack=4):
            if isinstance(match(case.node, target), Match):
                yield case
