"""What a metric is, and the registry of them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, dataclass_transform

import numpy as np

from qir.bench.timing import Times
from qir.errors import QirError, kind_of
from qir.ir import Graph
from qir.ops.attributes import declared_fields, is_taken
from qir.text.configured import Configured
from qir.types import Array, format_shape

Figure: TypeAlias = "float | Array"
"""A number, NaN where there is none; or an array of numbers, as by class."""


@dataclass(frozen=True)
class Answers:
    """What a program made of a batch, in real numbers, and what is right.

    Args:
        outputs: An array for each output that the metric is to look at.
        targets: What the data gives beside the inputs.
        exact: What the float program made of the same batch; empty where no metric asks for it.
    """

    outputs: tuple[Array, ...]
    targets: Any = None
    exact: tuple[Array, ...] = ()

    @property
    def output(self) -> Array:
        """The only output.

        Raises:
            QirError: There are several.
        """
        if len(self.outputs) != 1:
            raise QirError(
                f"expected one output, got {len(self.outputs)}; say which by output='NAME'"
            )
        return self.outputs[0]


def beside_exact(answers: Answers) -> tuple[Array, Array]:
    """Returns the only output in float64, and what the float program makes of the same batch.

    Raises:
        QirError: There are several outputs, or the two have different shapes.
    """
    found = answers.output
    (exact,) = answers.exact
    if found.shape != exact.shape:
        raise QirError(
            f"expected an output {format_shape(exact.shape)} as the float program's, got "
            f"{format_shape(found.shape)}"
        )
    return found.astype(np.float64), exact.astype(np.float64)


@dataclass(frozen=True, repr=False)
class AnyMetric(Configured, ABC):
    """What all metrics have in common.

    Attributes:
        name: Name by which it is asked for.
        unit: Unit of its figures; empty for plain numbers.
        form: How a table formats a figure.
    """

    unit: ClassVar[str] = ""
    form: ClassVar[str] = ".4f"

    @property
    def label(self) -> str:
        """What reports call it where it has no other name: its own, and options not at default."""
        return str(self)


class Metric(AnyMetric):
    """A figure of what a program computes, over all samples of the data.

    A subclass is one class in one file, entered by `metric`; its fields are its options. `part`
    keeps of each batch what `total` needs, which is called once, so that batches of any sizes
    weigh as their samples do.

    Attributes:
        reads_targets: Whether it compares with targets.
        reads_exact: Whether it compares with what the float program computes.
        reads_all: Whether it looks at all outputs of a program that has several.
    """

    reads_targets: ClassVar[bool] = True
    reads_exact: ClassVar[bool] = False
    reads_all: ClassVar[bool] = False

    def prepare(self) -> None:
        """Raises QirError where what it needs is not installed: before programs are run."""

    @abstractmethod
    def part(self, answers: Answers) -> Any:
        """Returns what is to be kept of a batch; raises QirError where shapes don't fit."""

    @abstractmethod
    def total(self, parts: Sequence[Any]) -> Figure:
        """Returns the figure of all batches from what was kept of each, at least one."""


class Measured(Protocol):
    """A program that can be measured."""

    @property
    def graph(self) -> Graph:
        """The program."""
        ...

    @property
    def samples(self) -> int:
        """Samples of the batch that it is measured on."""
        ...

    def times(self, rounds: int) -> Times:
        """Returns the seconds of calls, in turns with the other programs of the table."""
        ...

    def peak_bytes(self) -> int:
        """Returns the bytes of memory that a call takes."""
        ...


class CostMetric(AnyMetric):
    """A figure of what a program costs, whatever it computes.

    Attributes:
        meaning: What its figures are of, as reports say it.
        is_of_a_call: Whether they are of a call on a batch; otherwise of the program as it is.
    """

    meaning: ClassVar[str]
    is_of_a_call: ClassVar[bool] = True

    @abstractmethod
    def cost(self, program: Measured) -> Figure:
        """Measures a program; raises QirError where that can't be done."""


MetricT = TypeVar("MetricT", bound=AnyMetric)

METRICS: dict[str, type[AnyMetric]] = {}
"""Every registered metric by name."""

_NAME = re.compile(r"[^\W\d][\w\-]*")


@dataclass_transform(frozen_default=True)
def metric(name: str) -> Callable[[type[MetricT]], type[MetricT]]:
    """Enters a metric into the registry and makes it a frozen dataclass.

    Args:
        name: The name by which it is asked for, of letters, digits, `-` and `_`.

    Raises:
        QirError: The name is taken or none; the class derives neither from Metric nor from
            CostMetric, lacks a method, or has options that no text can hold.
    """
    if not _NAME.fullmatch(str(name)):
        raise QirError(f"metric: expected a name of letters, digits, '-' and '_', got '{name}'")

    def enter(cls: type[MetricT]) -> type[MetricT]:
        subject = f"metric {name}"
        given: object = cls
        if not isinstance(given, type) or not issubclass(given, Metric | CostMetric):
            got = given.__qualname__ if isinstance(given, type) else kind_of(given)
            raise QirError(
                f"{subject}: expected a class that derives from qir.Metric, or from "
                f"qir.metrics.CostMetric, got {got}"
            )
        if is_taken(name, METRICS, cls):
            raise QirError(f"{subject}: the name is already registered")
        if missing := cls.__abstractmethods__:
            raise QirError(
                f"{subject}: expected {cls.__qualname__} to define {', '.join(sorted(missing))}"
            )
        cls.name = name
        METRICS[name] = declared = declared_fields(cls, subject, repr=False)
        return declared

    return enter
