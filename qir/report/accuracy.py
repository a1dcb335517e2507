"""How near an integer program comes to the float one: measured when it is made, told in words."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import isnan
from numbers import Real

import numpy as np

from qir.analysis.equivalence import Interpreter
from qir.errors import EndlessError, QirError, counted
from qir.ir import Accuracy, Graph, OutputAccuracy, OwnError, Value
from qir.ir.accuracy import Cause
from qir.ir.signature import bind
from qir.observe.sample import MOST_ROWS, batch_name, few_rows, same_rows
from qir.ops import Return
from qir.report.causes import (
    REMEDIES,
    Seen,
    code_of,
    find_cause,
    lesser,
    readers_of,
)
from qir.report.compare.counterparts import Counterparts, decoded, kind_of_value
from qir.report.compare.forcing import ForcedRun, ForcedValue
from qir.report.decibels import figures_of
from qir.report.endless import loop_of, own_error_of, stopped_early
from qir.report.trips import Trips, of_all_trips
from qir.report.work import work_of
from qir.types import Array

THRESHOLD = 20.0
"""Signal to noise in dB below which an output is warned of: a tenth of its size is noise."""

WORK = 2**25
"""Products that may be computed for each op of a program: 2 or 3 ms of numpy.

An op takes at least four times as long to quantize, most of it to compile for calibration.
"""

WORST = 3
"""How many ops a warning names."""

BESIDE = 30.0
"""How far in dB above the worst an op's own error makes no difference."""


def threshold_of(accuracy_check: object) -> float | None:
    """Returns the signal to noise in dB that outputs are to have; None for no check.

    Args:
        accuracy_check: True for `THRESHOLD`, False for no check, or a number.

    Raises:
        QirError: It is none of these.
    """
    if isinstance(accuracy_check, bool):
        return THRESHOLD if accuracy_check else None
    if isinstance(accuracy_check, Real) and not isnan(accuracy_check):
        return float(accuracy_check)
    raise QirError(
        "quantize: accuracy_check: expected True, False or a number of decibels, got "
        f"{accuracy_check!r}"
    )


def measure(
    reference: Graph,
    program: Graph,
    batch: Sequence[Array],
    interpreter: Interpreter,
    threshold: float = THRESHOLD,
    returned: Sequence[Array | None] = (),
) -> Accuracy | None:
    """Computes both programs on a few rows of a batch and compares them.

    The interpreter gives the integers that every backend gives, and need not compile the program
    first, which would take longer than making it. An op's own error is that of its result where its
    operands are exact but for their codes: the integer program is computed once more, each value
    that stands for one of the float program replaced by that one's numbers.

    How many rows follows from the size of the program, never from a clock, so that the figures are
    the same on every machine. A large float program is not computed where calibration has done so
    and all outputs are accurate.

    Args:
        reference: The float program.
        program: The integer program that was made of it.
        batch: An array for each input of `reference`.
        interpreter: Computes all values of a program.
        threshold: The least signal to noise of an output in dB.
        returned: What `reference` returns for the batch, an array for each output; None or nothing
            where that is not known.

    Returns:
        The figures; None where a loop of the float program takes too many trips to be computed.

    Raises:
        QirError: An input does not fit.
    """
    reference, program = stopped_early(reference), stopped_early(program)
    if not any(value.origin for value in reference.values()):
        reference.record_origins()
    allowed = WORK * sum(bool(node.outputs) for node in reference.walk())
    rows = allowed // max(1, work_of(reference, few_rows(reference, batch, 1)))
    rows = max(1, min(MOST_ROWS, rows))
    inputs = few_rows(reference, batch, rows)
    is_small = 3 * work_of(reference, inputs) <= allowed
    pairs = zip(program.inputs, reference.inputs, inputs, strict=True)
    given = [array if old.type.quant else _given(new, array) for new, old, array in pairs]
    taken = Trips()
    compared = list(zip(reference.outputs, program.outputs, strict=True))
    compared = [pair for pair in compared if _is_compared(pair[0])]
    try:
        found = interpreter(program, *given, inside=taken.count)
    except EndlessError as error:
        with suppress(EndlessError):
            interpreter(reference, *inputs)
            lost = tuple(OutputAccuracy(old.name, -np.inf, -np.inf, 0) for old, _ in compared)
            worst = (own_error_of(loop_of(error, program)),)
            return Accuracy(threshold, _samples(reference, inputs), lost, worst)
        return None

    def compare(exact: Mapping[Value, Array]) -> Accuracy:
        outputs = tuple(
            _output(old, decoded(old, exact[old]), decoded(new, found[new]))
            for old, new in compared
            if old in exact
        )
        return Accuracy(threshold, _samples(reference, inputs), outputs)

    if not is_small and (known := _known(reference, returned, rows)) is not None:
        accuracy = compare(known)
        if not accuracy.inaccurate:
            return accuracy
    trips = Trips()
    try:
        exact = interpreter(reference, *inputs, inside=trips.note)
    except EndlessError:
        return None
    accuracy = compare(exact)
    if not accuracy.inaccurate and not is_small:
        return accuracy
    parts: dict[Value, list[ForcedValue]] = {}
    run = ForcedRun(
        Counterparts(reference),
        exact,
        trips,
        taken,
        lambda one: parts.setdefault(one.value, []).append(one),
    )
    with suppress(EndlessError):  # Of exact numbers a loop may take other trips.
        run.run(program, given, interpreter)
        seen = {value: _seen(met) for value, met in parts.items()}
        accuracy = replace(accuracy, worst=_worst(seen, exact))
    return accuracy


def _known(
    reference: Graph, returned: Sequence[Array | None], rows: int
) -> dict[Value, Array] | None:
    """Returns the floating-point outputs for some rows; None unless all are known."""
    found: dict[Value, Array] = {}
    for value, array in zip(reference.outputs, returned, strict=False):
        if array is None:
            continue
        kept = same_rows(reference, value, array, rows)
        if kept is not None and len(kept.shape) == value.type.rank:
            found[value] = kept.astype(value.type.dtype.numpy)
    wanted = set(filter(_is_compared, reference.outputs))
    return found if wanted <= found.keys() else None


def _is_compared(output: Value) -> bool:
    return bool(output.type.is_float or output.type.quant) and not output.is_constant


def _output(value: Value, exact: Array, found: Array) -> OutputAccuracy:
    whole, rows = figures_of(exact, found)
    nonfinite = int(np.count_nonzero(np.isfinite(exact) & ~np.isfinite(found)))
    return OutputAccuracy(value.name, whole, rows, nonfinite)


def _given(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.encode(array)


def _samples(graph: Graph, inputs: Sequence[Array]) -> str:
    name = batch_name(graph)
    if name is None:
        return "the first batch"
    return f"{counted(bind(graph.inputs, inputs).names[name], 'sample')} of the first batch"


def _worst(seen: Mapping[Value, Seen], outside: Container[Value]) -> tuple[OwnError, ...]:
    """Returns the ops with the largest errors of their own, the largest first.

    Args:
        seen: What was met of the integer program, of exact operands.
        outside: The values of the float program that are in no region.
    """
    is_inside = any(one.reference not in outside for one in seen.values())
    worst: dict[Value, Seen] = {}
    for one in sorted(seen.values(), key=lambda one: _shown(one, seen)):
        # What a loop returns is computed inside.
        if not (is_inside and one.reference.node and one.reference.node.regions):
            worst.setdefault(one.reference, one)
    return tuple(
        OwnError(
            kind_of_value(one.reference, outside),
            one.reference.name,
            one.reference.loc,
            one.sqnr,
            one.rows,
            *find_cause(one, seen),
        )
        for one in list(worst.values())[:WORST]
        if _shown(one, seen) < np.inf
    )


def _seen(parts: Sequence[ForcedValue]) -> Seen:
    """Returns a value beside the one that it stands for, of all trips where it is inside."""
    value = parts[0].value
    right, found, rounded = (
        arrays[0] if len(arrays) == 1 else of_all_trips(arrays)
        for arrays in (
            [one.exact for one in parts],
            [one.computed for one in parts],
            [one.rounded for one in parts],
        )
    )
    figures = figures_of(right, found)
    coded = lesser(*figures if code_of(value) is None else figures_of(right, rounded))
    return Seen(value, parts[0].reference, right, *figures, coded)


def _shown(one: Seen, seen: Mapping[Value, Seen]) -> float:
    """Returns how bad a value is in dB: no worse than the results of those that read it.

    What a relu cuts off anyway may be missing from the code of its operand. Where the code is not
    what makes the error, they do not show it, as they were computed of exact numbers in that code.
    """
    own, readers, stack = one.figure, list[float](), [one.value]
    if not one.is_of_code:
        return own
    while stack:
        value = stack.pop()
        if any(isinstance(node.op, Return) for node in value.users):
            return own
        for reader in readers_of(value):
            if reader not in seen:
                continue
            if seen[reader].reference is one.reference:
                # The same numbers in another form, made of exact ones.
                stack.append(reader)
            else:
                readers.append(seen[reader].figure)
    return max(own, min(readers, default=own))


def lines_of(accuracy: Accuracy) -> list[str]:
    """Returns the figures as lines of text."""
    lines = [f"accuracy on {accuracy.samples}, signal to noise (5th percentile of rows):"]
    for output in accuracy.outputs:
        bad = f", {counted(output.nonfinite, 'number')} not finite" if output.nonfinite else ""
        lines.append(f"  output %{output.name}: {_figures(output)}{bad}")
    lines += [
        f"  own error of {_place(one)}: {_figures(one)}, {one.cause}" for one in accuracy.worst
    ]
    return lines


SWITCHES = "accuracy_check=False skips this check, a number there is another threshold"
"""How `qir.quantize` is told to check otherwise."""


def warning_of(accuracy: Accuracy, switches: str = SWITCHES) -> str | None:
    """Returns what to warn the user of, None where every output is accurate.

    Args:
        accuracy: The figures.
        switches: The last sentence: how to leave the check out.
    """
    bad = accuracy.inaccurate
    if not bad:
        return None
    figures = "; ".join(
        f"%{one.name} has {_figures(one)}"
        + (f" and {counted(one.nonfinite, 'number')} not finite" if one.nonfinite else "")
        for one in bad
    )
    sentences = [
        f"quantize: expected outputs of at least {accuracy.threshold:g} dB signal to noise, and "
        f"rows 10 dB below that, against the float program; on {accuracy.samples}, {figures}"
    ]
    figures_of = {one: lesser(one.sqnr, one.rows) for one in accuracy.worst}
    least = min(figures_of.values(), default=0.0)
    worst = [one for one, figure in figures_of.items() if figure <= least + BESIDE]
    if worst:
        sentences.append("the ops with the largest errors of their own:")
    for one in worst:
        found = f"{one.cause} at %{one.about}: {one.detail}"
        sentences.append(f"  {_place(one)}: {_figures(one)}; {found}")
    causes: dict[Cause, None] = dict.fromkeys(one.cause for one in worst)
    sentences += [f"{cause}: {REMEDIES[cause]}" for cause in causes]
    sentences.append(switches)
    return "\n".join(sentences)


def _place(one: OwnError) -> str:
    return f"{one.op} %{one.value}" + (f" ({one.loc})" if one.loc else "")


def _figures(one: OutputAccuracy | OwnError) -> str:
    return f"{one.sqnr:.1f} dB ({one.rows:.1f} dB)"
