"""Sums of products with large weights, which the reference computes some outputs at a time."""

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.ops import rules

PROGRAMS = {
    "dot": ("%x: i8[4,6]{scale=0.5, zp=3}", "i8[6,5]{scale=0.25}", "dot(%x, %k) : i32[4,5]"),
    "16 bits": ("%x: i16[4,6]{scale=0.5}", "i16[6,5]{scale=0.25}", "dot(%x, %k) : i64[4,5]"),
    "batches": (
        "%x: i8[2,4,6]{scale=0.5, zp=3}",
        "i8[2,6,5]{scale=0.25}",
        "dot(%x, %k) {batch = 1} : i32[2,4,5]",
    ),
    "zero point": (
        "%x: i8[4,6]{scale=0.5, zp=3}",
        "i8[6,5]{scale=0.25, zp=-7}",
        "dot(%x, %k) : i32[4,5]",
    ),
    "multipliers": (
        "%x: i8[4,6]{scale=0.5}",
        "i4[6,5]{scale=0.25, multipliers=[[1], [3]]}",
        "dot(%x, %k) : i32[4,5]",
    ),
    "conv": (
        "%x: i8[2,7,7,3]{scale=0.5, zp=3}",
        "i8[3,3,3,5]{scale=0.25}",
        "conv(%x, %k) {padding = same} : i32[2,7,7,5]",
    ),
    "groups": (
        "%x: i8[2,7,7,4]{scale=0.5, zp=3}",
        "i8[3,3,2,6]{scale=0.25}",
        "conv(%x, %k) {padding = same, groups = 2} : i32[2,7,7,6]",
    ),
    "conv_transpose": (
        "%x: i8[2,3,3,3]{scale=0.5}",
        "i8[2,2,3,5]{scale=0.25}",
        "conv_transpose(%x, %k) {strides = [2, 2]} : i32[2,6,6,5]",
    ),
}
TOGETHER = ("zero point", "multipliers", "groups")
"""Whose weights are not the stored numbers alone, or whose outputs do not all read the same."""


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_outputs_one_by_one_are_those_of_all_together(
    name: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, kernel, line = PROGRAMS[name]
    call, _, result = line.partition(" : ")
    wide, outputs = result[:3], int(result.rstrip("]").split(",")[-1])
    text = f"  %b = const : {wide}[{outputs}]{{scale=0.125}}\n" if bias else ""
    call = call.replace("%k)", "%k, %b)") if bias else call
    graph_text = (
        f"graph @g({x}) {{\n  %k = const : {kernel}\n{text}"
        f"  %y = {call} : {result}{{scale=0.125}}\n  return %y\n}}"
    )
    rng = np.random.default_rng(0)
    shape = [int(size) for size in kernel[kernel.index("[") + 1 : kernel.index("]")].split(",")]
    stored = np.int16 if kernel.startswith("i16") else np.int8
    low, high = (-8, 8) if kernel.startswith("i4") else (-128, 128)
    arrays = {"k": rng.integers(low, high, shape).astype(stored)}
    if bias:
        arrays["b"] = rng.integers(-999, 999, outputs).astype(f"int{wide[1:]}")
    graph = qir.parse(graph_text, arrays)
    (given,) = graph.inputs
    inputs = rng.integers(-128, 128, given.type.known_shape).astype(given.type.dtype.numpy)
    (whole,) = run(graph, inputs)
    widths = []
    real = rules.Accumulate.exactly

    def exactly(op, x, weights, *more):
        widths.append(weights.shape[-1])
        return real(op, x, weights, *more)

    monkeypatch.setattr(rules.Accumulate, "exactly", staticmethod(exactly))
    monkeypatch.setattr(rules, "_PART", 1)
    (parts,) = run(graph, inputs)
    assert parts.dtype == whole.dtype
    assert np.array_equal(parts, whole)
    assert widths == ([outputs] if name in TOGETHER else [1] * outputs)
