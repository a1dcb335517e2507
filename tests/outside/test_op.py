"""An op of somebody else: with its traits it sinks through transposes and lets scales pass."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

import qir
from qir.backends.native.computation import Computation
from qir.backends.xla.lowering import lowering
from qir.ops.orders import Turned
from qir.ops.rules import SameCode
from qir.ops.traits import Maps, Moves, carried_in_place
from qir.ops.type_rules import uncoded_axes
from tests.registries import restored

PROGRAM = """graph @rolled(%x: f32[B,5,2]) {
  %k = const [[1.0, 0.5, -2.0], [0.3, 1.0, 0.7]] : f32[2,3]
  %s = const [0.1, -3.0, 20.0] : f32[3]
  %a = dot(%x, %k) : f32[B,5,3]
  %t = transpose(%a) {permutation = [0, 2, 1]} : f32[B,3,5]
  %r = roll(%t) {axis = 2} : f32[B,3,5]
  %y = transpose(%r) {permutation = [0, 2, 1]} : f32[B,5,3]
  %z = mul(%y, %s) : f32[B,5,3]
  return %z
}"""


@restored()
def test_an_op_with_traits_sinks_folds_quantizes_and_runs():
    @qir.op("roll")
    class Roll(qir.Op):
        """Moves numbers by one along an axis; what leaves it at one end enters it at the other."""

        axis: int
        quant, moves, commutes = SameCode(), Moves.ORDER, Maps.ALL

        def result(self, x):
            uncoded_axes(self, x, [self.axis])
            return x

        def interval(self, x):
            return x.hull()

        def evaluate(self, x):
            return np.roll(x, 1, self.axis)

        def carried(self, operands, results):
            return carried_in_place({*range(operands[0].rank)} - {self.axis})

        def turned(self, order, operands):
            return Turned(replace(self, axis=order[self.axis]), (0,), (order,))

    lowering(Roll)(lambda op, node: Computation(lambda x: jnp.roll(x, 1, op.axis), node.inputs))
    x = np.random.default_rng(0).normal(size=(32, 5, 2)).astype(np.float32)
    folded = qir.optimize(qir.parse(PROGRAM), "move-transposes, fold-scales", check=x)
    assert [node.op.name for node in folded.nodes] == ["const", "dot", "roll", "return"]
    integer = qir.quantize(folded, [x], check=True)
    assert qir.explain(integer).floats == ()
    assert np.array_equal(qir.compile(integer)(x)[0], qir.evaluate(integer, x)[0])
