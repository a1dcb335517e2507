"""A function of the user's as a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qir.errors import QirError, kind_of
from qir.metrics.registry import Answers, Metric


@dataclass(frozen=True, repr=False)
class OwnFunction(Metric):
    """A function of all outputs and targets, as a user gives it.

    Args:
        called: What reports call it.
        function: Takes the outputs of all batches, one behind the other along the first axis (a
            tuple where a program has several), and the targets likewise; returns a number.
    """

    called: str
    function: Callable[[Any, Any], Any]

    name: ClassVar[str] = "function"
    form: ClassVar[str] = ".6g"
    reads_all: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """There are no options to check."""

    def __str__(self) -> str:
        return self.called

    def part(self, answers: Answers) -> Answers:
        """Keeps the batch, its targets as copies: a loader may put the next ones in their place."""
        return Answers(answers.outputs, _copied(answers.targets))

    def total(self, parts: Sequence[Answers]) -> float:
        """Calls the function."""
        outputs = tuple(
            joined(list(each), f"output {number}")
            for number, each in enumerate(zip(*(part.outputs for part in parts), strict=True))
        )
        targets = joined([part.targets for part in parts], "targets")
        found = self.function(outputs[0] if len(outputs) == 1 else outputs, targets)
        try:
            return float(found)
        except (TypeError, ValueError) as error:
            raise QirError(f"expected a number of the function, got {kind_of(found)}") from error


def _copied(targets: Any) -> Any:
    if isinstance(targets, Mapping):
        return {key: _copied(each) for key, each in targets.items()}
    if isinstance(targets, tuple):
        return tuple(map(_copied, targets))
    return np.array(targets) if hasattr(targets, "dtype") else targets


def joined(parts: Sequence[Any], what: str) -> Any:
    """Joins what batches have: arrays and lists along the first axis, dicts and tuples by entry.

    Args:
        parts: The batches' parts, all alike, at least one.
        what: What they are, for errors.

    Raises:
        QirError: Arrays differ in more than their first size.
    """
    first = parts[0]
    if first is None or isinstance(first, list):
        return None if first is None else [item for part in parts for item in part]
    if isinstance(first, Mapping):
        return {key: joined([part[key] for part in parts], f"{what}['{key}']") for key in first}
    if isinstance(first, tuple):
        return tuple(
            joined(list(each), f"{what}[{number}]")
            for number, each in enumerate(zip(*parts, strict=True))
        )
    arrays = [np.atleast_1d(np.asarray(part)) for part in parts]
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        given = " and ".join(map(str, sorted(shapes)[:2]))
        raise QirError(
            f"expected {what} of the same shape in all batches but for the number of samples, got "
            f"{given} behind it; a class that derives from qir.metrics.Metric sees batch by batch"
        )
    return np.concatenate(arrays)
