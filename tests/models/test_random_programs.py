"""No random program raises, becomes noise without a warning, or differs between backends."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings

from qir.api import quantizing
from qir.ir import Graph
from qir.ops import LayerNorm, Relu, Softmax, Tanh
from qir.ops.op import Op
from qir.types import DType, TensorType
from tests.models import random_programs
from tests.models.random_programs import any_seed, attempt, differing, judge, run_chunk
from tests.strategies.float_programs import FloatCase

CHUNKS = 12
"""Tests that share the work, so that as many processes can."""

COUNT = 2000
"""Programs in the slow tier; as many percent of them in others as these draw of examples."""


@pytest.mark.hypothesis
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_programs(chunk: int) -> None:
    """XLA computes all of them in the slow tier, and in a campaign as many.

    Compiling takes ten times as long as all else: in the fast tier, only one test does it.
    """
    profile = settings()
    count = -(-COUNT * profile.max_examples // (100 * CHUNKS))
    start = chunk if profile.derandomize else any_seed()
    compares = chunk == 0 or profile.max_examples >= 100
    each = max(1, profile.max_examples // 100) if compares else 0
    counts, faults = run_chunk(count, start, each)
    assert not faults, faults[0]
    assert counts["programs"] >= count
    # Of drawn rules many select what is folded away, or are shadowed by others.
    assert counts["refused"] < 0.3 * counts["programs"]
    assert counts["accurate"] > 0.7 * (counts["programs"] - counts["refused"])


class TestTheJudge:
    """It finds each fault that is made on purpose."""

    INPUTS = np.linspace(-2, 2, 32, dtype=np.float32).reshape(4, 8)

    def case(self, *ops: Op) -> FloatCase:
        """A chain of functions; its rows are of moderate size but for the first."""
        graph = Graph("chain")
        value = graph.add_input("x", TensorType((4, 8), DType.F32))
        for op in ops:
            value = graph.at_end().emit(op, value)
        graph.set_outputs([value])
        inputs = self.INPUTS * np.array([[1e5], [1], [1], [1]], np.float32)
        return FloatCase(graph, (inputs,))

    def test_numbers_that_differ(self) -> None:
        tried = attempt(self.case(Tanh(), Softmax(1)), "w8a8")
        assert tried.fault is None
        assert not differing([tried])
        (codes,) = tried.expected
        assert differing([replace(tried, expected=(codes + 1,))])

    def test_noise_without_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        noise = self.case(Relu()), "calibrate(method=percentile, percentile=60), quantize"
        assert attempt(*noise).kind == "warned"
        monkeypatch.setattr(quantizing, "warning_of", lambda _: None)
        fault = attempt(*noise).fault
        assert fault is not None
        assert fault.startswith("silently inaccurate")

    def test_an_exception_of_another_kind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise IndexError("out of range")

        monkeypatch.setattr(quantizing, "measure", fail)
        counts, (fault,) = judge([(self.case(Relu()), "w8a8", ())])
        assert counts == {"raised": 1, "programs": 1, "compared": 0, "faults": 1}
        assert "IndexError: out of range" in fault

    def test_a_refusal_though_all_is_finite(self) -> None:
        fault = attempt(self.case(Relu()), "calibrate, quantize(activations=u4)").fault
        assert fault is not None
        assert fault.startswith("refused")

    def test_parts_are_cut_where_floating_point_begins_and_ends(self) -> None:
        pipeline = "fold, calibrate, quantize(keep_float=[op:softmax]), integer"
        tried = attempt(self.case(LayerNorm((1,)), Softmax(1), LayerNorm((1,))), pipeline)
        assert tried.parts is not None
        assert [value.type.is_float for value in tried.parts.inputs] == [True, True]
        assert not differing([tried])


def test_the_campaign_prints_counts_and_fails_with_faults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = Counter(programs=24, accurate=23, faults=1)
    monkeypatch.setattr(random_programs, "run_chunk", lambda *_: (counts, ["a fault"]))
    with pytest.raises(SystemExit) as ended:
        random_programs.main(["--count", "48", "--seed", "7"])
    assert ended.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["a fault", lines[1]]
    assert lines[3].startswith("seed 8: programs 48, accurate 46, warned 0, refused 0, ")
