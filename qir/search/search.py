"""A search: from what is asked for to the rules that give some of a program 16 bits."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isclose
from numbers import Real
from pathlib import Path

from qir.errors import QirError, counted, kind_of
from qir.observe.fingerprint import Fingerprint
from qir.pipeline.recipes import Recipe, RecipeRule
from qir.search.budget import BUDGETS, Budget
from qir.search.greedy import MOST_WIDE, Found, Greedy
from qir.search.measurements import OutOfTime, SearchedFigures
from qir.search.subject import Prepared, SearchedProgram
from qir.text.files import check_writable

SAME = 1e-3
"""How far figures of one metric may differ between two machines."""


@dataclass(frozen=True)
class SearchResult:
    """What came of a search.

    Attributes:
        recipe: The rules, each with its reason.
        summary: A sentence for the user.
        warning: A sentence where the search was cut short; empty where it was not.
    """

    recipe: Recipe
    summary: str
    warning: str = ""


@dataclass(frozen=True)
class SearchLimits:
    """How long a search may take, and where it keeps what it has measured.

    Args:
        seconds: The most seconds, None for as many as it takes.
        checkpoint: The file of what was measured; a search that finds it goes on from there.
        started: When the seconds began, as `time.monotonic` tells.
    """

    seconds: float | None
    checkpoint: Path | None
    started: float


def search(
    subject: SearchedProgram, budget: Budget | None, pipeline: str, limits: SearchLimits
) -> SearchResult:
    """Finds what is to get 16 bits.

    Args:
        subject: What is searched.
        budget: What is asked for; None for the most signal to noise that a few codes of 16 bits
            give.
        pipeline: The pipeline that the rules are for, as text.
        limits: How long it may take, and where it keeps what it has measured.

    Raises:
        QirError: The budget is not met by anything that was tried, or not in time; or the
            checkpoint is of another search.
    """
    identity = _identity(subject, budget, pipeline)
    measurements = SearchedFigures(identity, limits.checkpoint, limits.seconds, limits.started)
    prepared = subject.prepared()
    greedy = Greedy(prepared, budget or _most_accurate(subject), measurements)
    late = ""
    try:
        if limits.checkpoint is not None and budget is not None and budget.is_own:
            _expect_same_metric(greedy, budget, limits.checkpoint)
        found = greedy.spend() if budget is None else greedy.meet()
        if budget is not None and found is None:
            raise _unmet(greedy, budget, pipeline, "nothing that was tried meets it")
    except OutOfTime:
        assert budget is not None
        why = f"it was not met within {limits.seconds:g} seconds"
        raise _unmet(greedy, budget, pipeline, why) from None
    finally:
        measurements.save()
    assert found is not None
    if not found.finished:
        late = (
            f"quantize: the search was ended after {limits.seconds:g} seconds; what was found "
            "until then is kept, and may have more codes of 16 bits than it needs, or fewer than "
            "would help; give it more"
        )
    rules = greedy.rules(found.chosen)
    return SearchResult(Recipe(tuple(rules), pipeline), _told(greedy, found, budget), late)


def _most_accurate(subject: SearchedProgram) -> Budget:
    """Returns what is measured where the most accuracy is asked for."""
    has_real = any(value.type.is_float for value in subject.reference.outputs)
    name = "sqnr" if has_real else "accuracy"
    return Budget(name, float("inf"), BUDGETS[name])


def _expect_same_metric(greedy: Greedy, budget: Budget, path: Path) -> None:
    """Raises QirError where figures of a file are of another function: a name tells too little."""
    is_known = greedy.measurements.known("simulated", [])
    figure = greedy.simulated([])
    if is_known and not isclose(figure, now := greedy.measured([]), rel_tol=SAME, abs_tol=SAME**2):
        raise QirError(
            f"checkpoint: {path} is of a search with another metric: {budget.name} is "
            f"{budget.figure(now)} where it has {budget.figure(figure)}; take the file away to "
            "begin anew, or choose another path"
        )


def _counts(prepared: Prepared, chosen: Sequence[int]) -> str:
    stored, wide = prepared.stored(chosen)
    units = [prepared.units[index] for index in chosen]
    weights = sum(unit.values for unit in units if unit.kind == "weights")
    anyway = f", of which {prepared.wide} had them anyway," if prepared.wide else ""
    return (
        f"{wide} of {counted(stored, 'stored activation')}{anyway} and "
        f"{counted(weights, 'tensor')} of weights at 16 bits"
    )


def _told(greedy: Greedy, found: Found, budget: Budget | None) -> str:
    name = "auto" if budget is None else f"budget {budget}"
    counts = _counts(greedy.prepared, found.chosen)
    if found.figure is None:
        return f"{name}: {counts}; the integer program was not measured"
    told = f"{name}: {greedy.budget.name} {greedy.budget.figure(found.figure)} with {counts}"
    if budget is None and greedy.room < 1:
        told += (
            f"; {MOST_WIDE:.0%} of so few are none more: a search with budget= takes as many as it "
            "needs"
        )
    return told


def _unmet(greedy: Greedy, budget: Budget, pipeline: str, why: str) -> QirError:
    best, prepared = greedy.best, greedy.prepared
    if best is None or best.figure is None:
        return QirError(f"budget {budget}: {why}; nothing was measured, give it more seconds")
    rules: Sequence[RecipeRule] = greedy.rules(best.chosen)
    counts = _counts(prepared, best.chosen)
    recipe = Recipe(tuple(rules), pipeline)
    return QirError(
        f"budget {budget}: {why}: the best found has {budget.figure(best.figure)}, with {counts}; "
        "ask for less, take a pipeline of 16 bits throughout, such as w16a16, without a budget, or "
        "keep ops in floating point by keep_float; the recipe that reached it:",
        recipe.text.splitlines(),
    )


def _identity(subject: SearchedProgram, budget: Budget | None, pipeline: str) -> str:
    """Returns a digest of all that figures depend on."""
    known = Fingerprint.of(subject.reference)
    digest = blake2b(digest_size=16)
    for part in (known.interface, known.structure, known.numbers, pipeline, str(budget)):
        digest.update(f"{part}\n".encode())
    # Codes follow from the data, and are attributes of the program.
    coded = Fingerprint.of(subject.program)
    digest.update(f"{coded.structure}{coded.numbers}{subject.with_weights}{subject.per}".encode())
    for array in (*subject.rows, *subject.held_out):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def begin(seconds: float | None, checkpoint: str | os.PathLike[str] | None) -> SearchLimits:
    """Returns the limits of a search that begins now.

    Raises:
        QirError: The seconds are no number above 0, or the checkpoint is no path to write to.
    """
    given: object = seconds
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    if given is not None and not (is_number and float(str(given)) > 0):
        raise QirError(f"quantize: expected seconds above 0, got {seconds!r}")
    where: object = checkpoint
    if where is not None and not isinstance(where, str | os.PathLike):
        raise QirError(f"quantize: expected checkpoint to be a path, got {kind_of(where)}")
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        check_writable(path)
    return SearchLimits(None if seconds is None else float(seconds), path, time.monotonic())
