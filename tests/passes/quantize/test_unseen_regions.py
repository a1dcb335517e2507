"""What no data ran stays in floating point, and says so."""

import numpy as np

import qir

LOOP = """
graph @g(%x: f32[2,3], %n: i32[]) {
  %y, %z, %end = while(%x, %x, %n) {carries = 3} with (%a: f32[2,3], %b: f32[2,3], %i: i32[]) {
    %k = const 1 : i32[]
    %less = less(%i, %k) : bool[]
    return %less
  } with (%a: f32[2,3], %b: f32[2,3], %i: i32[]) {
    %sub = sub(%a, %b) : f32[2,3]
    %t = tanh(%b) : f32[2,3]
    %k = const 1 : i32[]
    %next = add(%i, %k) : i32[]
    return %t, %sub, %next
  } : f32[2,3], f32[2,3], i32[]
  return %y, %z, %end
}
"""


def test_a_loop_that_made_no_trip():
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    graph = qir.quantize(qir.parse(LOOP), [(x, np.int32(1))], accuracy_check=False)
    (loop,) = (node for node in graph.nodes if node.regions)
    notes = {node.op.name: node.note for node in loop.regions[1].nodes if node.note}
    assert notes.keys() == {"sub", "tanh"}
    for n in (1, 0):
        for mine, wanted in zip(
            qir.evaluate(graph, x, np.int32(n)),
            qir.evaluate(qir.parse(LOOP), x, np.int32(n)),
            strict=True,
        ):
            assert np.allclose(mine, wanted, atol=0.02)
