"""What a compiled program takes beside its inputs: the arrays of its constants, each once."""

import numpy as np

import qir

TIED = """
graph @tied(%x: f32[2,9]) {
  %a = const @w : f32[9,9]
  %c = dot(%x, %a) : f32[2,9]
  %b = const @w : f32[9,9]
  %d = dot(%c, %b) : f32[2,9]
  return %d
}
"""
NUMBERS = np.random.default_rng(0).integers(-3, 4, (9, 9)).astype(np.float32)
X = np.arange(18, dtype=np.float32).reshape(2, 9)


def test_an_array_that_constants_share_is_one_parameter():
    graph = qir.parse(TIED, {"w": NUMBERS})
    compiled = qir.compile(graph)
    assert list(compiled.parameters) == ["a"]
    np.testing.assert_array_equal(compiled(X)[0], X @ NUMBERS @ NUMBERS)


def test_other_arrays_are_parameters_of_their_own():
    graph = qir.parse(TIED.replace("%b = const @w", "%b = const @v"), {"w": NUMBERS, "v": -NUMBERS})
    compiled = qir.compile(graph)
    assert list(compiled.parameters) == ["a", "b"]
    np.testing.assert_array_equal(compiled(X)[0], -(X @ NUMBERS @ NUMBERS))
