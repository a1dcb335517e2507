"""What a calibration method is, and the registry of them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

from qir.errors import QirError
from qir.observe.histograms import BINS
from qir.observe.statistics import TensorStatistics
from qir.ops.attributes import declared_fields, expect_class, is_taken
from qir.text.configured import Configured


@dataclass(frozen=True, repr=False)
class CalibrationMethod(Configured, ABC):
    """A way to choose the range that the codes of a tensor span, from what was seen of it.

    A subclass is one class in one file, entered by `calibration_method`; its fields are its
    options, which pipelines give as `calibrate(method=percentile, percentile=99.9)`.

    Attributes:
        name: Name in pipelines.
    """

    @property
    def subject(self) -> str:
        """The pass whose options those of a method are."""
        return "calibrate"

    @property
    def most_bins(self) -> int:
        """Bins that the histograms must have at least, where they have more than by default."""
        return BINS

    @abstractmethod
    def range(self, seen: TensorStatistics) -> tuple[float, float]:
        """Returns the least and the greatest number of the range.

        Args:
            seen: What was seen of the tensor.

        Returns:
            Two finite numbers of float32, which need not hold zero between them.
        """


MethodT = TypeVar("MethodT", bound=CalibrationMethod)

METHODS: dict[str, type[CalibrationMethod]] = {}
"""Every registered method by name."""

_NAME = re.compile(r"[^\W\d][\w\-]*")
_NUMBERS = ("inf", "nan", "true", "false")
"""What pipelines read as something else than a name."""


@dataclass_transform(frozen_default=True)
def calibration_method(name: str) -> Callable[[type[MethodT]], type[MethodT]]:
    """Enters a method into the registry and makes it a frozen dataclass.

    Args:
        name: Its name in pipelines, of letters, digits, `-` and `_`.

    Raises:
        QirError: The name is taken or none that a pipeline can hold; the class does not derive from
            CalibrationMethod, has no `range`, or has options that no text can hold.
    """
    if not _NAME.fullmatch(str(name)) or name in _NUMBERS:
        raise QirError(
            "calibration method: expected a name of letters, digits, '-' and '_', no number, got "
            f"'{name}'"
        )

    def enter(cls: type[MethodT]) -> type[MethodT]:
        subject = f"calibration method {name}"
        expect_class(cls, CalibrationMethod, subject)
        if is_taken(name, METHODS, cls):
            raise QirError(f"{subject}: the name is already registered")
        if cls.__abstractmethods__:
            raise QirError(
                f"{subject}: expected {cls.__qualname__} to define "
                f"{', '.join(sorted(cls.__abstractmethods__))}"
            )
        cls.name = name
        METHODS[name] = declared = declared_fields(cls, subject)
        return declared

    return enter
