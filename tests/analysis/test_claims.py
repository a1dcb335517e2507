"""What ops claim, also from outside: the verifier proves it, and what is untrue is taken back."""

from dataclasses import replace

import pytest

import qir
from qir.analysis.claims import drop_false_claims, false_claims
from qir.analysis.verify import verify
from qir.errors import VerifyError
from qir.ops.claims import Claim
from qir.ops.op import Op
from qir.ops.rules import SameCode
from qir.pipeline import Context, Pass, PassManager, Pipeline, register
from qir.types import FrozenArray
from tests.registries import restored


class AtMost(Claim):
    """No stored number lies further from the zero point than a limit."""

    def __init__(self, limit):
        self.limit = limit

    def disproof(self, operands):
        (x,) = operands
        low, high = x.hull
        most = max(-low, high)
        return f"holds {most}, not {self.limit} at most" if most > self.limit else None

    def without(self, op):
        return replace(op, limits=tuple(limit for limit in op.limits if limit != self.limit))


@pytest.fixture(autouse=True)
def limited():
    with restored():

        @qir.op("limited")
        class Limited(Op):
            """The operand; `limits` claims how far it reaches."""

            limits: tuple[int, ...] = ()

            quant = SameCode()

            def result(self, x):
                return x

            def claims(self):
                return tuple(map(AtMost, self.limits))

        yield


def program(limits, type="i8[4]{scale=0.5, zp=10}"):
    return qir.parse(f"""
        graph @g(%x: {type}) {{
          %y = limited(%x) {{limits = {limits}}} : {type}
          return %y
        }}""")


def test_an_op_that_claims_nothing_needs_no_proof():
    graph = program([])
    assert list(false_claims(graph)) == []
    assert all(node.op.claims() == () for node in graph.nodes)


def test_the_verifier_proves_what_an_op_from_outside_claims():
    verify(program([138]))
    with pytest.raises(VerifyError, match="limited: holds 138, not 137 at most") as error:
        verify(program([137]))
    assert "at %y" in str(error.value)


def test_what_is_true_stays_and_all_that_is_false_is_taken_back():
    graph = program([100, 138, 137])
    assert drop_false_claims(graph) == [
        "%y holds 138, not 100 at most",
        "%y holds 138, not 137 at most",
    ]
    (node, _) = graph.nodes
    assert node.op.attributes() == {"limits": (138,)}
    verify(graph)


def test_a_claim_is_taken_back_after_the_pass_that_makes_it_untrue():
    @register
    class WidenInput(Pass):
        """Moves the zero point away."""

        name = "widen-input"

        def run(self, graph, context):
            for value in graph.values():
                value.type = value.type.with_element(
                    replace(value.type.code, zero_point=FrozenArray(-11))
                )

    graph = program([138, 137], "i8[4]{scale=0.5, zp=9}")  # [-137, 118], then [-117, 138]
    context = Context()
    result = PassManager(Pipeline.parse("widen-input")).run(graph, context)
    (node, _) = result.nodes
    assert node.op.attributes() == {"limits": (138,)}
    assert context.diagnostics == [
        "widen-input: drops a certificate, %y holds 138, not 137 at most"
    ]
