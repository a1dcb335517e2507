"""Which ops take which kinds of code, found by trying: the table in `qir/README.md`.

`python -m tests.exact.kinds_by_op` prints it. Each cell is a program of one op and one code, which
is built, computed by the reference and by XLA, and compared; `tests/exact/test_kinds_by_op.py` runs
all of them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import qir
from qir.ir import Builder, Graph, Value
from qir.ops import Conv, Dequantize, Dot, Lookup, Quantize, Requantize, Reshape, Transpose
from qir.ops.lookup import index_bits
from qir.types import (
    MXFP4,
    NVFP4,
    Affine,
    Array,
    Code,
    Codebook,
    DType,
    Float8E4M3,
    Float8E5M2,
    PowerOfTwo,
    TensorType,
)

SHAPE = (64, 32)
KERNEL = (1, 1, 64, 32)
RNG = np.random.default_rng(0)
REAL = RNG.normal(0, 1, KERNEL).astype(np.float32)
X = Affine.of(DType.I8, 0.02, 3)
"""The code of what products multiply weights with."""

CASES: dict[str, Callable[[tuple[int, ...]], Code]] = {
    "`affine`, 2 to 8 bits": lambda _: Affine.of(DType.I4, 0.3),
    "`affine`, 16 bits": lambda _: Affine.of(DType.I16, 1e-4, 5),
    "`affine`, a scale for each channel": lambda shape: Affine.of(
        DType.I8, np.linspace(0.01, 0.03, shape[-1]).reshape(_ones(shape, shape[-1]))
    ),
    "`affine`, float scales by block": lambda shape: Affine.of(DType.I8, _blocks(shape, 8, 0.02)),
    "`affine`, scales of two levels": lambda shape: Affine.of(
        DType.I4, 0.02, multipliers=np.rint(_blocks(shape, 8, 16))
    ),
    "`codebook` of integers": lambda _: Codebook.named("apot4", 0.3),
    "`codebook` of floats (NF4)": lambda _: Codebook.named("nf4", 3.0),
    "`power_of_two`, 4 bits": lambda _: PowerOfTwo.of(4, 0.04),
    "`power_of_two`, base √2": lambda _: PowerOfTwo.of(4, 0.3, 2),
    "`fp8_e4m3fn`": lambda _: Float8E4M3.of(0.01),
    "`fp8_e5m2`": lambda _: Float8E5M2.of(1e-4),
    "`mxfp4`": lambda shape: MXFP4.fit(REAL.reshape(shape), _parts(shape, 32)),
    "`nvfp4`": lambda shape: NVFP4.fit(REAL.reshape(shape), _parts(shape, 16)),
}
"""A code of each kind, and of each way in which its scale may vary, for a tensor of a shape."""


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    Args:
        word: `exact`, `float` where the result is compared within the bounds of its op's roundings,
            or `refused`.
        reason: Why it was refused.
    """

    word: str
    reason: str = ""


def _ones(shape: tuple[int, ...], last: int) -> tuple[int, ...]:
    return (*(1,) * (len(shape) - 1), last)


def _parts(shape: tuple[int, ...], block: int) -> tuple[int, ...]:
    """One part for each block of rows of each column."""
    return (*shape[:-2], shape[-2] // block, shape[-1])


def _blocks(shape: tuple[int, ...], block: int, most: float) -> Array:
    return np.linspace(most / 2, most, int(np.prod(_parts(shape, block)))).reshape(
        _parts(shape, block)
    )


def _of_const(code: Code, b: Builder) -> Value:
    return b.const(code.encode(REAL.reshape(SHAPE)), "w", code)


def _quantized(code: Code, b: Builder) -> Value:
    return b.emit(Quantize(code), b.graph.inputs[0])


def _decoded(code: Code, b: Builder) -> Value:
    return b.emit(Dequantize(), _quantized(code, b))


def _requantized(code: Code, b: Builder) -> Value:
    return b.emit(Requantize(Affine.of(DType.I8, 0.05)), _quantized(code, b))


def _looked_up(code: Code, b: Builder) -> Value:
    x = _quantized(code, b)
    table = np.arange(2 ** index_bits(x.type), dtype=np.int64) % 251 - 125
    return b.emit(Lookup(), x, b.const(table.astype(np.int8), "table", X))


def _dot(code: Code, b: Builder) -> Value:
    return b.emit(Dot(), b.emit(Quantize(X), b.graph.inputs[0]), _of_const(code, b))


def _dot_of_real(code: Code, b: Builder) -> Value:
    return b.emit(Dot(), b.graph.inputs[0], b.emit(Dequantize(), _of_const(code, b)))


def _conv(code: Code, b: Builder) -> Value:
    kernel = b.const(code.encode(REAL), "w", code)
    return b.emit(Conv(), b.emit(Quantize(X), b.graph.inputs[0]), kernel)


def _conv_of_real(code: Code, b: Builder) -> Value:
    kernel = b.const(code.encode(REAL), "w", code)
    return b.emit(Conv(), b.graph.inputs[0], b.emit(Dequantize(), kernel))


def _moved(code: Code, b: Builder) -> Value:
    turned = b.emit(Transpose((1, 0)), _quantized(code, b))
    return b.emit(Reshape((*turned.type.shape, 1)), turned)


Build = Callable[[Code, Builder], Value]

OPS: dict[str, tuple[Build, Build | None]] = {
    "const": (_of_const, None),
    "quantize": (_quantized, None),
    "dequantize": (_decoded, None),
    "requantize": (_requantized, None),
    "lookup": (_looked_up, None),
    "dot": (_dot, _dot_of_real),
    "conv": (_conv, _conv_of_real),
    "moves": (_moved, None),
    "store": (_of_const, None),
}
"""A program of each op, and the one in floating point, behind a dequantize, where it is refused."""


def attempt(op: str, name: str) -> Verdict:
    """Builds a program, and compares XLA with the reference where there is one.

    Raises:
        AssertionError: They differ, or a program is not read back as it was written.
    """
    build, otherwise = OPS[op]
    shape = KERNEL if op == "conv" else SHAPE
    code = CASES[name](shape)
    x_shape = {"conv": (1, 4, 8, shape[-2]), "dot": (5, shape[-2])}.get(op, SHAPE)
    try:
        graph = _program(build, code, x_shape)
    except qir.QirError as error:
        if otherwise is None:
            return Verdict("refused", error.message)
        graph = _program(otherwise, code, x_shape)
        _compare(graph)
        return Verdict("float", error.message)
    if op == "store":
        _store(graph, code)
        return Verdict("exact")
    _compare(graph, exactly=True)
    return Verdict("exact")


def _program(build: Build, code: Code, shape: tuple[int, ...]) -> Graph:
    graph = Graph("cell")
    graph.add_input("x", TensorType(shape, DType.F32))
    graph.set_outputs([build(code, graph.at_end())])
    return graph


def _inputs(graph: Graph) -> Array:
    (x,) = graph.inputs
    return np.random.default_rng(1).normal(0, 1, x.type.known_shape).astype(np.float32)


def _compare(graph: Graph, *, exactly: bool = False) -> None:
    x = _inputs(graph)
    compiled = qir.compile(graph, check=x)
    if exactly:
        (wanted,), (found,) = qir.evaluate(graph, x), compiled(x)
        np.testing.assert_array_equal(found, wanted)


def _store(graph: Graph, code: Code) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cell.qir")
        qir.save(graph, path)
        assert qir.load(path) == graph
        with np.load(path.with_suffix(".npz")) as arrays:
            assert arrays["w"].nbytes == np.prod(SHAPE) * code.storage.bits // 8


def lines() -> Iterator[str]:
    """The table, and the reasons below it."""
    yield f"| code | {' | '.join(OPS)} |"
    yield "|---" * (len(OPS) + 1) + "|"
    reasons: list[str] = []
    for name in CASES:
        cells = []
        for op in OPS:
            verdict = attempt(op, name)
            note = ""
            if verdict.reason:
                reason = _general(verdict.reason)
                if reason not in reasons:
                    reasons.append(reason)
                note = f" ({reasons.index(reason) + 1})"
            cells.append(verdict.word + note)
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    for number, reason in enumerate(reasons, start=1):
        yield f"{number}. {reason}"


def _general(reason: str) -> str:
    """A reason without op, type and kind of the one program that had it."""
    reason = re.sub(r"^\w+: (.*: )?", "", reason)
    reason = re.sub(r"of kind \w+", "of the kind", reason)
    return re.sub(r", got .*\};", ";", reason)


if __name__ == "__main__":
    print("\n".join(lines()))
