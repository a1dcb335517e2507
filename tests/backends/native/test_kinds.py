"""Kernels and codes that they don't know: each is declined with its reason, and XLA computes it."""

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import qir

# Imported to register the rules.
import qir.backends.native.patterns  # pyright: ignore[reportUnusedImport]
from qir.backends.cpu.target import host_target
from qir.backends.native.pattern import match

pytestmark = pytest.mark.skipif(host_target() is None, reason="no kernels for this machine")

DOT = """
graph @dot(%x: i8[2,3]{X}) {
  %w = const [[-1, 0], [1, 1], [0, -1]] : i4[3,2]{W}
  %a = dot(%x, %w) : i32[2,2]{scale=%x*%w, AXIS}
  %y = requantize(%a) : i8[2,2]{scale=0.7}
  return %y
}"""
TABLE = ", ".join(map(str, range(-24, 24, 3)))


@pytest.mark.parametrize(
    ("x", "w", "axis", "reason"),
    [
        ("scale=0.5", f"kind=codebook, scale=0.5, levels=[{TABLE}]", "", "kind codebook, where"),
        (
            "scale=0.5",
            "scale=0.5, multipliers=[[2, 7], [1, 1], [2, 3]]",
            "",
            "kind affine with scales of two",
        ),
        ("scale=[0.5, 0.03], axis=0", "scale=0.5", "axis=0", "without one code of 8 bits"),
    ],
)
def test_an_unknown_code_is_declined_and_computed(x: str, w: str, axis: str, reason: str) -> None:
    parts = {"X}": f"{x}}}", "W}": f"{w}}}", ", AXIS": axis and f", {axis}"}
    text = DOT
    for name, part in parts.items():
        text = text.replace(name, part)
    graph, target = qir.parse(text), host_target()
    assert target is not None
    node = graph.value("a").node
    assert node is not None
    assert reason in str(match(node, target))
    stored = np.array([[-128, 5, 127], [9, -77, 100]], np.int8)
    assert np.array_equal(qir.compile(graph)(stored)[0], qir.evaluate(graph, stored)[0])
