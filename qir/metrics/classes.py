"""Classes: what a program predicts, and what is right, of whatever form targets have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qir.errors import QirError, kind_of
from qir.metrics.registry import Answers, Metric
from qir.types import Array, format_shape

UNKNOWN = -1
"""The class of a prediction that is NaN."""


class Classified(NamedTuple):
    """Predictions beside what is right.

    Args:
        predicted: Class ids, [samples]; of labels that are not exclusive, 0 or 1 for each,
            [samples, labels]. `UNKNOWN` where the program's output is NaN.
        right: The same of the targets.
        classes: How many classes there are; 0 where only the ids tell.
    """

    predicted: Array
    right: Array
    classes: int

    @property
    def class_count(self) -> int:
        """How many classes there are, as far as is known."""
        return self.classes or int(max(self.predicted.max(), self.right.max())) + 1


@dataclass(frozen=True, repr=False)
class ClassMetric(Metric):
    """A metric of predicted classes.

    An output has a score for each class along its last axis, the greatest of which is the
    prediction, the first one of equal ones; integers without a code are the predictions themselves.
    Targets are class ids, or of the output's shape with a single 1 in each row.

    Args:
        threshold: Of scores that stand alone: from which on the answer is yes. Outputs are then
            compared one by one with targets of 0 and 1, for two classes or for labels that are not
            exclusive. 0.5 is for probabilities, 0 for logits.
        ignore: The id of targets that don't count, as those of padding.
    """

    threshold: float | None = None
    ignore: int | None = None

    def part(self, answers: Answers) -> Any:
        """Keeps the classes of a batch."""
        return self.classified(answers)

    def classified(self, answers: Answers) -> Classified:
        """Returns the classes of a batch, those to be ignored left out.

        Raises:
            QirError: Targets don't fit the output, or are none of its classes.
        """
        output, width, classes = answers.output, 1, 0
        if self.threshold is not None:
            right, classes = fitting(answers.targets, output), 2
            said = np.where(np.isnan(output), UNKNOWN, output >= self.threshold)
            width = output.shape[-1] if output.ndim > 1 else 1
        elif output.dtype.kind in "iub":
            right, said = fitting(answers.targets, output), output
        else:
            right, classes = ids(answers.targets, output, self.ignore), output.shape[-1]
            said = np.where(np.isnan(output).any(-1), UNKNOWN, np.argmax(output, -1))
        check_ids(right, classes or None, self.ignore)
        if width > 1:
            if self.ignore is not None:
                raise QirError(
                    f"expected ignore with one answer a sample, got {width} labels along the last "
                    "axis of the output"
                )
            return Classified(
                said.reshape(-1, width).astype(np.int64),
                right.reshape(-1, width).astype(np.int64),
                classes,
            )
        said, right = said.reshape(-1).astype(np.int64), right.reshape(-1).astype(np.int64)
        kept = slice(None) if self.ignore is None else right != self.ignore
        return Classified(said[kept], right[kept], classes)


def together(parts: Sequence[Classified]) -> Classified | None:
    """Joins the classes of batches; None where a prediction is unknown, or there is none at all."""
    predicted = np.concatenate([part.predicted for part in parts])
    right = np.concatenate([part.right for part in parts])
    if not predicted.size or (predicted == UNKNOWN).any():
        return None
    return Classified(predicted, right, parts[0].classes)


def ids(targets: Any, output: Array, ignore: int | None = None) -> Array:
    """Returns class ids of targets, for an output with a score for each class.

    Args:
        targets: Ids, or rows with a single 1.
        output: The scores, classes along the last axis.
        ignore: An id that is no class and is let through.

    Raises:
        QirError: They don't fit the output, or are none of its classes.
    """
    given = numbers(targets)
    if output.ndim < 2 or output.shape[-1] < 2:
        raise QirError(
            "expected scores for two classes or more along the last axis of the output, got "
            f"{format_shape(output.shape)}; of scores that stand alone say the threshold, "
            "as threshold=0.5 for probabilities"
        )
    if given.shape == output.shape:
        is_one = given == 1
        if not np.array_equal(is_one.sum(-1), np.ones(given.shape[:-1])) or (given[~is_one]).any():
            raise QirError(
                "expected class ids, or rows with a single 1 and 0 elsewhere, got targets of the "
                "output's shape that are neither"
            )
        return np.asarray(np.argmax(is_one, -1))
    right = _of_shape(given, output.shape[:-1], output)
    check_ids(right, output.shape[-1], ignore)
    return right.astype(np.int64)


def fitting(targets: Any, output: Array) -> Array:
    """Returns targets of the output's shape; raises QirError where they don't fit it."""
    return _of_shape(numbers(targets), output.shape, output)


def numbers(targets: Any) -> Array:
    """Returns targets as an array; raises QirError where they are no numbers."""
    try:
        found = np.asarray(targets)
    except (TypeError, ValueError) as error:
        raise QirError(
            f"expected an array of numbers as targets, got {kind_of(targets)}"
        ) from error
    if found.dtype.kind not in "iufb":
        raise QirError(f"expected an array of numbers as targets, got {kind_of(targets)}")
    return found


def check_ids(right: Array, classes: int | None, ignore: int | None) -> None:
    """Raises QirError for targets that are no ids of so many classes, if their number is known."""
    wrong = right != np.floor(right) if right.dtype.kind == "f" else np.zeros(right.shape, bool)
    wrong |= (right < 0) | (right >= classes if classes is not None else False)
    if ignore is not None:
        wrong &= right != ignore
    if wrong.any():
        where = np.unravel_index(int(np.argmax(wrong)), right.shape)
        place = ", ".join(map(str, where))
        known = "whole numbers of at least 0" if classes is None else f"ids 0 to {classes - 1}"
        advice = "" if ignore is not None else "; ignore=ID leaves the targets of one id out"
        raise QirError(f"expected {known} as targets, got {right[where]} at [{place}]{advice}")


def _of_shape(given: Array, shape: tuple[int, ...], output: Array) -> Array:
    """Returns targets of a shape, which may have lost or gained axes of size 1 at their end."""
    if _trimmed(given.shape) != _trimmed(shape):
        raise QirError(
            f"expected targets of shape {format_shape(shape)} for outputs "
            f"{format_shape(output.shape)}, got {format_shape(given.shape)}"
        )
    return given.reshape(shape)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a shape without the ones at its end; the first size, of samples, stays."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
