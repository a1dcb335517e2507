"""An op that lacks something, or has what no text can hold, is refused where it is declared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.ops.attributes import by_type
from qir.ops.op import Op
from qir.ops.rules import FixedCode, Rescale, SameCode
from qir.types import Affine, Array, Code, DType, TensorType
from tests.registries import restored


class Same(Op):
    """Returns what it gets."""

    def result(self, x: TensorType) -> TensorType:
        return x

    def evaluate(self, x: Array) -> Array:
        return x


class Ruled(Same):
    """Has no field for its code."""

    quant = Rescale()


class Fixed(Same):
    """Has no field for its code either."""

    quant = FixedCode(Affine.of(DType.I8, 0.5))


class Guessed(Ruled):
    """Has a field for its code that no text shows."""

    to: Affine | None = None


class Computed(Same):
    """Says by its attributes that it is rescaled."""

    quant = property(lambda self: Rescale())  # pyright: ignore[reportAssignmentType]


class NoRule(Op):
    """Has no type rule."""


class Mapped(Same):
    """Has an attribute that no text can hold."""

    k: dict[str, int]


class Nested(Same):
    """Has one inside of a tuple."""

    k: tuple[set[int], ...] = ()


class Shared(Same):
    """Has a default that all would share."""

    k: list[int] = []  # noqa: RUF012


class Ordered(Same):
    """Has a field without a default after one with it."""

    a: int = 0
    b: int


class Unknown(Same):
    """Names a type that there is none of."""

    k: Whatever  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore


class Foreign:
    """Is no op."""


FIELD = r"to: Affine \| None = by_type\(result_code, None\)"
MISTAKES = [
    ("Bad Name", Same, r"op: expected a name of letters, digits and '_', got 'Bad Name'"),
    ("é", Same, "op: expected a name of letters"),
    ("own", NoRule, "op own: expected NoRule to define its type rule, def result"),
    ("own", Foreign, r"op own: expected Foreign to derive from qir\.Op"),
    ("own", Mapped, "op own: expected field 'k' to be of int, .* got dict"),
    ("own", Nested, "op own: expected field 'k' to be of int, .* got tuple"),
    ("own", Shared, "op own: expected the fields of a dataclass, got mutable default"),
    ("own", Ordered, "op own: expected the fields of a dataclass, got non-default argument"),
    ("own", Unknown, "op own: expected the fields of a dataclass, got name 'Whatever'"),
    ("own", Ruled, f"op own: expected a field that holds the code of the result, {FIELD}"),
    ("own", Fixed, f"op own: expected a field that holds the code of the result, {FIELD}"),
    ("own", Guessed, rf"op own: expected field 'to' to be .*Affine \| None; .*: {FIELD}"),
]


@pytest.fixture(autouse=True)
def _registries_as_they_were() -> Iterator[None]:
    with restored():
        yield


@pytest.mark.parametrize(("name", "cls", "message"), MISTAKES)
def test_a_mistake_is_told_where_an_op_is_declared(name: str, cls: Any, message: str) -> None:
    with pytest.raises(QirError, match=message):
        qir.op(name)(cls)


def test_a_code_for_an_op_without_its_field_is_refused() -> None:
    cls = qir.op("own")(Computed)
    with pytest.raises(QirError, match=f"own: expected a field that holds .*{FIELD}"):
        cls().with_code(Affine.of(DType.I8, 0.5))


def test_a_field_that_the_result_type_shows_is_of_any_type() -> None:
    class Shaped(Same):
        """Reads a code."""

        to: Code | None = by_type(lambda result: result.quant, None)
        quant = Rescale()

    assert qir.op("own")(Shaped)().to is None


class Flat(Same):
    """Computes another shape than it says."""

    quant = SameCode()

    def evaluate(self, x: Array) -> Array:
        return x.reshape(-1)


class Two(Same):
    """Computes two arrays where it says one."""

    def evaluate(self, x: Array) -> Any:
        return x, x


class Halved(Same):
    """Computes codes that are no integers."""

    quant = SameCode()

    def evaluate(self, x: Array) -> Array:
        return x / 2


class Untyped(Same):
    """Returns a text for a type."""

    def result(self, x: TensorType) -> Any:
        return str(x)


@pytest.mark.parametrize(
    ("cls", "type_", "message"),
    [
        (Flat, "f32[2,3]", r"own: expected numbers of shape \[2,3\], .* of %y, got \[6\]"),
        (Flat, "f32[B,3]", r"own: expected numbers of shape \[2,3\], .* of %y, got \[6\]"),
        (Flat, "i8[2,3]{scale=1.0}", r"own: expected numbers of shape \[2,3\]"),
        (Two, "f32[2,3]", "own: expected evaluate to return 1 arrays, got 2"),
        (Halved, "i8[2,3]{scale=1.0}", r"run: expected stored numbers of .* integers, got float"),
    ],
)
def test_the_reference_holds_an_op_to_its_type_rule(
    cls: type[Op], type_: str, message: str
) -> None:
    qir.op("own")(type("Own", (cls,), {}))
    graph = qir.parse(f"graph @g(%x: {type_}) {{\n  %y = own(%x) : {type_}\n  return %y\n}}")
    dtype = graph.inputs[0].type.dtype.numpy
    with pytest.raises(QirError, match=message) as caught:
        qir.evaluate(graph, np.zeros((2, 3), dtype))
    assert "%y" in str(caught.value)


def test_a_type_rule_that_gives_no_type_is_refused() -> None:
    qir.op("own")(Untyped)
    text = "graph @g(%x: f32[2]) {\n  %y = own(%x) : f32[2]\n  return %y\n}"
    with pytest.raises(QirError, match=r"own: expected its result to be a TensorType, got 'f32"):
        qir.parse(text)
