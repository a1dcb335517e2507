"""What an op of others says of itself is held to what it computes where programs are checked."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

import qir
from qir.analysis.traits import broken_traits
from qir.backends.reference.interpreter import run_all
from qir.errors import PassError
from qir.numbers.interval import EVERYTHING
from qir.ops import Const, Return
from qir.ops.op import OPS, Op
from qir.ops.orders import Turned
from qir.ops.rules import SameCode, Table
from qir.ops.traits import Moves, carried_in_place
from qir.types import Dim
from tests.drawing import drawn
from tests.registries import restored
from tests.strategies import STRATEGIES

X = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)


class Doubled(Op):
    """Twice the operand; the traits of the ops that follow are not."""

    quant: ClassVar[Any] = Table()

    def result(self, x):
        return x

    def interval(self, x):
        return x + x

    def evaluate(self, x):
        return x * 2


class NarrowInterval(Doubled):
    def interval(self, x):
        return x


class Moved(Doubled):
    quant, moves = SameCode(), Moves.ORDER


class Chosen(Doubled):
    moves = Moves.PICKS


class Clipped(Doubled):
    def clip_bounds(self):
        return 0.0, 1.0


class Idle(Doubled):
    def is_idle(self, operands, results):
        return True


class Carrying(Doubled):
    def interval(self, x):
        return EVERYTHING

    def evaluate(self, x):
        return np.cumsum(x, 1)

    def carried(self, operands, results):
        return carried_in_place([0, 1])


class Turning(Doubled):
    axis: int = 1

    def interval(self, x):
        return x

    def evaluate(self, x):
        return np.roll(x, 1, self.axis)

    def turned(self, order, operands):
        return Turned(self, (0,), (order,))


class Copying(Doubled):
    moves = Moves.COPIES

    def interval(self, x):
        return x

    def evaluate(self, x):
        return np.repeat(x[:1], len(x), axis=0)


WRONG: dict[type[Op], str] = {
    NarrowInterval: "interval gives ",
    Moved: "moves is ORDER, but the results hold numbers that the first operand does not have",
    Chosen: "moves is PICKS, but the results hold numbers that its operands do not have",
    Copying: "moves is COPIES, but the result lacks numbers of the first operand",
    Clipped: "clip_bounds gives 0 and 1, but it does not clip to these",
    Idle: "is_idle holds, but the result is not the operand",
    Carrying: "carried takes axis 1 of operand 0 to axis 1, but a place along it decides results",
    Turning: "turned gives ",
}


@restored()
@pytest.mark.parametrize("cls", WRONG, ids=lambda cls: cls.__name__)
def test_a_trait_that_says_too_much_is_named_with_its_op(cls: type[Op]) -> None:
    qir.op("others")(type(cls.__name__, (cls,), {"__module__": __name__}))
    graph = qir.parse(
        "graph @f(%x: f32[3,4,5]) { %y = neg(%x) : f32[3,4,5]"
        " %z = others(%y) : f32[3,4,5] return %z }"
    )
    with pytest.raises(PassError, match=r"others: ") as told:
        qir.optimize(graph, "canonicalize", check=X)
    assert str(told.value).startswith(f"check: others: {WRONG[cls]}")
    assert "at %z" in str(told.value)
    qir.optimize(graph, "canonicalize")


@restored()
def test_codes_that_an_op_stores_beyond_what_it_says_are_told() -> None:
    @qir.op("others")
    class Kept(Op):
        """The same codes, and says that they are few."""

        quant = SameCode()

        def result(self, x):
            return x

        def interval(self, x):
            return x

        def evaluate(self, x):
            return x

        def stored(self, operands, result):
            return 0, 1

    graph = qir.parse(
        "graph @f(%x: i8[3,4]{scale=0.5}) { %y = others(%x) : i8[3,4]{scale=0.5} return %y }"
    )
    codes = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    with pytest.raises(PassError, match=r"check: others: stored gives \[0, 1\], but .* \[-6, 5\]"):
        qir.optimize(graph, "canonicalize", check=codes)


@restored()
def test_an_op_that_says_what_it_does_passes() -> None:
    @qir.op("roll")
    class Roll(Op):
        """Moves numbers by one along an axis."""

        axis: int
        quant, moves = SameCode(), Moves.ORDER

        def result(self, x):
            return x

        def interval(self, x):
            return x.hull()

        def evaluate(self, x):
            return np.roll(x, 1, self.axis)

        def carried(self, operands, results):
            return carried_in_place({*range(operands[0].rank)} - {self.axis})

        def turned(self, order, operands):
            return Turned(replace(self, axis=order[self.axis]), (0,), (order,))

    text = "graph @f(%x: f32[B,4,5]) { %y = roll(%x) {axis = 1} : f32[B,4,5] return %y }"
    assert qir.optimize(qir.parse(text), "canonicalize", check=X) == qir.parse(text)


@pytest.mark.hypothesis
@pytest.mark.parametrize(
    "cls",
    [cls for cls in OPS.values() if cls not in (Const, Return) and not cls.region_count],
    ids=lambda cls: cls.name,
)
def test_ops_that_come_with_qir_pass_the_check_of_others(cls: type[Op]) -> None:
    for case in drawn(STRATEGIES[cls], 48):
        node = case.node
        if any(isinstance(size, Dim) for size in getattr(node.op, "shape", ())):
            continue
        with np.errstate(all="ignore"):
            arrays = run_all(case.graph, *case.inputs, precision=np.float64)
        operands, results = ([arrays[x] for x in part] for part in (node.inputs, node.outputs))
        if all(array.size and np.isfinite(array).all() for array in (*operands, *results)):
            assert list(broken_traits(node, operands, results)) == [], case.shown()
