"""How near an integer program comes to the float one: measured when it is made, told in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import isnan, prod
from numbers import Real

import numpy as np

from qir.analysis.equivalence import Interpreter, turned_like
from qir.errors import EndlessError, QirError, counted
from qir.ir import Accuracy, Graph, OutputAccuracy, OwnError, Value
from qir.ir.accuracy import Cause
from qir.ir.signature import bind
from qir.observe.sample import MOST_ROWS, batch_name, few_rows, same_rows
from qir.ops import Return
from qir.ops.regions import RegionOp
from qir.report.causes import (
    REMEDIES,
    Seen,
    code_of,
    far_middle,
    find_cause,
    is_exact,
    lesser,
    readers_of,
)
from qir.report.endless import loop_of, own_error_of, stopped_early
from qir.report.trips import Trips, of_all_trips
from qir.types import Array, Dim, Size

THRESHOLD = 20.0
"""Signal to noise in dB below which an output is warned of: a tenth of its size is noise."""

WORK = 2**25
"""Products that may be computed for each op of a program: 2 or 3 ms of numpy.

An op takes at least four times as long to quantize, most of it to compile for calibration.
"""

RESULT = 256
"""How many products take as long as making one result, with its rounding and checks."""

TRIP = 2**19
"""How many products take as long as an op in one trip of a loop at least, whatever it computes."""

PERCENTILE = 0.05
"""The share of rows that may be worse than the figure that stands for rows."""

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
    rows = allowed // max(1, _work(reference, few_rows(reference, batch, 1)))
    rows = max(1, min(MOST_ROWS, rows))
    inputs = few_rows(reference, batch, rows)
    is_small = 3 * _work(reference, inputs) <= allowed
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
            _output(old, _decoded(old, exact[old]), _decoded(new, found[new]))
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
    errors = _OwnErrors(exact, trips, taken)
    with suppress(EndlessError):  # Of exact numbers a loop may take other trips.
        accuracy = replace(accuracy, worst=errors.worst(program, given, interpreter))
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


def ratio_in_decibels(exact: Array, found: Array) -> tuple[float, float]:
    """Returns signal to noise in dB: of the whole tensor, and the 5th percentile by rows.

    Args:
        exact: The numbers of the float program; those that are not finite are left out.
        found: Those of the integer program, of the same shape. One that is not finite where the
            exact one is makes its figures -inf.
    """
    right = np.asarray(exact, np.float64)
    known = np.isfinite(right)
    right = np.where(known, right, 0)
    with np.errstate(all="ignore"):
        noise = np.where(known, (np.asarray(found, np.float64) - right) ** 2, 0)
    noise, signal = np.where(np.isfinite(noise), noise, np.inf), right**2
    width = max(right.shape[-1] if right.ndim else 1, 1)
    of_rows = signal.reshape(-1, width).sum(1)
    # A row of nothing but 0 has no size that its noise could be held against but that of the rows.
    of_rows = np.where(of_rows == 0, of_rows.mean() if of_rows.size else 0, of_rows)
    by_row = _decibels(of_rows, noise.reshape(-1, width).sum(1))
    whole = _decibels(signal.sum(keepdims=True).reshape(1), noise.sum(keepdims=True).reshape(1))
    least = np.sort(by_row)[int(PERCENTILE * by_row.size)] if by_row.size else np.inf
    return float(whole[0]), float(least)


def _figures_of(exact: Array, found: Array) -> tuple[float, float]:
    """Returns the figures of `ratio_in_decibels`, the whole about the middle of a range far from 0.

    The middle itself is no signal: a code is to tell numbers from one another.
    """
    whole, rows = ratio_in_decibels(exact, found)
    if middle := far_middle(np.asarray(exact)):
        whole, _ = ratio_in_decibels(np.subtract(exact, middle), np.subtract(found, middle))
    return whole, rows


def _decibels(signal: Array, noise: Array) -> Array:
    with np.errstate(all="ignore"):
        ratio = 10 * np.log10(signal) - 10 * np.log10(noise)
    return np.where(noise == 0, np.inf, np.where(np.isnan(ratio), -np.inf, ratio))


def _output(value: Value, exact: Array, found: Array) -> OutputAccuracy:
    whole, rows = _figures_of(exact, found)
    nonfinite = int(np.count_nonzero(np.isfinite(exact) & ~np.isfinite(found)))
    return OutputAccuracy(value.name, whole, rows, nonfinite)


def _given(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.encode(array)


def _decoded(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.decode(array)


def _work(graph: Graph, inputs: Sequence[Array]) -> int:
    """Returns how many products take as long as a program on some inputs."""
    names = {name: int(size) for name, size in bind(graph.inputs, inputs).names.items()}
    return _work_inside(graph, names, 0)


def _work_inside(graph: Graph, names: Mapping[str, int], least: int) -> int:
    """Returns the work of a graph or region, at least some for each op."""
    total = 0
    for node in graph.nodes:
        if not node.outputs or node.outputs[0].is_constant:
            continue
        types = [value.type for value in node.inputs]
        if node.regions:
            known = node.op.trip_count(types) if isinstance(node.op, RegionOp) else None
            trips = 1 if known is None else _number(known, names)
            total += trips * sum(_work_inside(region, names, TRIP) for region in node.regions)
            continue
        products = node.op.multiply_adds(types, node.outputs[0].type)
        work = _number(products, names) + RESULT * _number(node.outputs[0].type.size, names)
        total += max(work, least)
    return total


def _number(size: Size, names: Mapping[str, int]) -> int:
    if not isinstance(size, Dim):
        return size
    return size.factor * prod(names.get(name, 1) for name in size.names)


def _samples(graph: Graph, inputs: Sequence[Array]) -> str:
    name = batch_name(graph)
    if name is None:
        return "the first batch"
    return f"{counted(bind(graph.inputs, inputs).names[name], 'sample')} of the first batch"


class _OwnErrors:
    """The errors that ops make themselves, of operands that are exact but for their codes.

    Args:
        exact: The numbers of the float program.
        trips: Those inside of its regions.
        taken: How often values inside of the integer program's regions were computed.
    """

    def __init__(self, exact: Mapping[Value, Array], trips: Trips, taken: Trips) -> None:
        self._exact = exact
        self._trips = trips
        self._taken = taken
        values = [value for value in (*exact, *trips.numbers) if not value.is_constant]
        self._meant = {name: value for value in values for name in value.origin}
        self._order = {value: index for index, value in enumerate(values)}
        self._met: dict[Value, int] = {}
        self._parts: dict[Value, list[tuple[Value, Array, Array, Array]]] = {}

    def worst(
        self, program: Graph, inputs: Sequence[Array], interpreter: Interpreter
    ) -> tuple[OwnError, ...]:
        """Returns the ops with the largest errors of their own, the largest first."""
        for value, array in zip(program.inputs, inputs, strict=True):
            self._force(value, array)
        interpreter(program, *inputs, hook=self._force, inside=self._force_inside)
        seen = {value: _seen(value, parts) for value, parts in self._parts.items()}
        is_inside = any(value in self._trips.numbers for value in self._meant.values())
        worst: dict[Value, Seen] = {}
        for one in sorted(seen.values(), key=lambda one: _shown(one, seen)):
            # What a loop returns is computed inside.
            if not (is_inside and one.reference.node and one.reference.node.regions):
                worst.setdefault(one.reference, one)
        return tuple(
            OwnError(
                one.reference.op.name if one.reference.op else self._kind(one.reference),
                one.reference.name,
                one.reference.loc,
                one.sqnr,
                one.rows,
                *find_cause(one, seen),
            )
            for one in list(worst.values())[:WORST]
            if _shown(one, seen) < np.inf
        )

    def _kind(self, value: Value) -> str:
        return "input" if value in self._exact else "region input"

    def _force(self, value: Value, array: Array) -> Array:
        return self._forced(value, array, self._exact)

    def _force_inside(self, value: Value, array: Array) -> Array:
        trip = self._met[value] = self._met.get(value, -1) + 1
        # A loop that was unrolled, or one that comes to its end at another trip, has others.
        known: dict[Value, Array] = {}
        for name in value.origin:
            old = self._meant.get(name)
            numbers = [] if old is None else self._trips.numbers.get(old, [])
            if old is None or trip >= len(numbers):
                continue
            if self._trips.counts[old] == self._taken.counts.get(value):
                known[old] = numbers[trip]
        return self._forced(value, array, known)

    def _forced(self, value: Value, array: Array, exact: Mapping[Value, Array]) -> Array:
        known: dict[Value, Array] = {}
        for name in () if value.is_constant else value.origin:
            old = self._meant.get(name)
            if old is not None and old in exact and old.type.is_float:
                numbers = turned_like(exact[old], old, value, name)
                if numbers.shape == array.shape:
                    known[old] = numbers
        code = value.type.quant
        if not known or (code is not None and is_exact(code)):
            return array  # What an exact sum lacks shows where it is rounded.
        # Of a relu that became the clamp of what it reads, the later one.
        latest = max(known, key=self._order.__getitem__)
        right, kept = known[latest], code_of(value)
        rounded = right if kept is None else kept.decode(kept.encode(right))
        self._parts.setdefault(value, []).append((latest, right, _decoded(value, array), rounded))
        return right.astype(array.dtype) if code is None else code.encode(right)


def _seen(value: Value, parts: Sequence[tuple[Value, Array, Array, Array]]) -> Seen:
    """Returns a value beside the one that it stands for, of all trips where it is inside."""
    references, rights, founds, kept = zip(*parts, strict=True)
    if len(parts) == 1:
        right, found, rounded = rights[0], founds[0], kept[0]
    else:
        right, found, rounded = map(of_all_trips, (rights, founds, kept))
    figures = _figures_of(right, found)
    coded = lesser(*figures if code_of(value) is None else _figures_of(right, rounded))
    return Seen(value, references[0], right, *figures, coded)


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
