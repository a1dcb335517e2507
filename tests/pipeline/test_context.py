"""What passes get beside the graph: the float program, and data that can be read again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.observe import observations
from qir.observe.observations import Observations
from qir.pipeline import PASSES, Context, Pass, register

NET = """
graph @net(%x: f32[B,2]) {
  %k = const [[0.5, -1.0], [1.0, 0.5]] : f32[2,2]
  %y = dot(%x, %k) : f32[B,2]
  %z = tanh(%y) : f32[B,2] of "head"
  return %z
}
"""
DATA = [np.full((3, 2), number, np.float32) for number in range(4)]


@pytest.fixture
def seen() -> Iterator[list[Context]]:
    """The contexts of a pass that looks at them, which is registered for one test."""
    contexts: list[Context] = []

    @register
    class Look(Pass):
        """Keeps the context."""

        name = "look"

        def run(self, graph: qir.Graph, context: Context) -> None:
            contexts.append(context)

    yield contexts
    del PASSES["look"]


def test_the_float_program_stays_at_hand_and_shares_its_arrays(seen: list[Context]) -> None:
    graph = qir.parse(NET)
    integer = qir.optimize(graph, "calibrate, quantize, look", data=DATA)
    (context,) = seen
    assert context.reference is graph
    by_origin = {name: value for value in graph.values() for name in value.origin}
    known = {name for value in integer.values() for name in value.origin}
    assert {"x", "head"} <= known <= by_origin.keys()
    assert by_origin["head"].op == graph.value("z").op


def test_a_program_without_origins_is_known_by_its_names(seen: list[Context]) -> None:
    graph = qir.Graph("g")
    x = graph.add_input("x", qir.TensorType((2,), qir.DType.F32))
    kernel = graph.at_end().const(np.ones((2, 2), np.float32), "k")
    graph.set_outputs([x, kernel])
    qir.optimize(graph, "look")
    reference = seen[0].reference
    assert reference is not None
    assert [value.origin for value in reference.values()] == [("x",), ("k",)]
    assert reference.value("k").array is kernel.array
    assert not x.origin


def test_a_program_of_codes_has_the_reference_that_the_caller_gives(seen: list[Context]) -> None:
    graph = qir.parse(NET)
    integer = qir.optimize(graph, "calibrate, quantize", data=DATA)
    qir.optimize(integer, "look")
    qir.optimize(integer, "look", context=Context(reference=graph))
    assert [context.reference for context in seen] == [None, graph]


@dataclass
class Again:
    """Data that begins anew each time."""

    made: int = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.made += 1
        return iter(DATA)


@pytest.mark.parametrize("kind", ["list", "object", "generator"])
def test_passes_behind_calibrate_read_the_same_data(kind: str, seen: list[Context]) -> None:
    made: dict[str, Iterable[np.ndarray]] = {
        "list": DATA,
        "object": Again(),
        "generator": (batch.copy() for batch in DATA),
    }
    qir.optimize(qir.parse(NET), "calibrate, look", data=made[kind])
    found = seen[0].observations
    assert found is not None
    assert found.repeatable
    for _ in range(2):
        assert [batch.tolist() for batch in found] == [batch.tolist() for batch in DATA]


def test_what_is_read_once_is_copied_as_its_buffer_may_be_used_again() -> None:
    buffer = np.zeros(2)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for number in range(3):
            buffer[:] = number
            yield {"x": buffer}

    data = Observations(batches())
    assert not data.repeatable
    assert [batch["x"][0] for batch in data] == [0, 1, 2]
    assert data.repeatable
    assert [batch["x"][0] for batch in data] == [0, 1, 2]


def test_too_much_to_keep_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations, "MOST_BYTES", 60)
    data = Observations(iter(DATA))
    assert len(list(data)) == 4
    assert not data.repeatable
    with pytest.raises(QirError, match="expected batches that can be read again, got a list_iter"):
        list(data)


def test_data_left_in_the_middle_is_not_taken_for_all() -> None:
    data = Observations(iter(DATA))
    next(iter(data))
    with pytest.raises(QirError, match="or was not read to its end"):
        list(data)
