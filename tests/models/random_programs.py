"""Random float programs quantized: what none of them may do, and a campaign that counts.

Run `python -m tests.models.random_programs --count 100000`. Programs are drawn and tried in packs,
others each time unless `--seed` is given, and after each chunk a line tells the counts so far. It
exits with 1 where a program did what it must not, and prints that program.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from unittest import mock

import jax
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import qir
from qir.backends.reference.interpreter import run_all
from qir.backends.xla.compile import Compiled, compile_graph
from qir.backends.xla.expected import Uncertain, difference
from qir.errors import QirAccuracyWarning, QirError
from qir.ir import Graph, Node, Value, clone
from qir.ops import Const, Dequantize, Embedding, QuantizeDynamic, Return
from qir.ops.cast import is_long
from qir.ops.rules import Accumulate
from qir.passes.pipelines import ACTIVATIONS, INTEGER
from qir.passes.quantize.quantize import QuantizePass
from qir.pipeline import Recipe, RecipeRule
from qir.report.decibels import ratio_in_decibels
from qir.types import Array, DType
from tests.strategies.base import Draw
from tests.strategies.float_programs import FloatCase, float_programs, simple_programs
from tests.strategies.pipelines import quantizing
from tests.strategies.recipes import recipes
from tests.strategies.transformer_programs import transformer_programs

SILENT = 15.0
"""Signal to noise in dB that an output has at the least where nothing is warned of."""

PACK = 24
"""Programs that are compiled together."""

COUNTED = ("programs", "accurate", "warned", "refused", "compared", "faults")

KEPT = ["none", "none", "op:relu", "op:add", "op:mul", "op:softmax", "op:dot", "op:mean"]
"""Ops that stay in floating point."""


Quantized: TypeAlias = tuple[FloatCase, str, tuple[RecipeRule, ...]]
"""A float program, the pipeline that quantizes it, and the rules of a recipe, or none."""


class NumpyExecutor:
    """Runs graphs for calibration without compiling them, which would take longer than the rest."""

    def probe(
        self, graph: Graph, values: Sequence[Value], reduce: Callable[..., Array] | None = None
    ) -> Callable[..., list[Array]]:
        """Returns a function from input arrays to values inside the graph."""

        def probe(*inputs: Array) -> list[Array]:
            found = run_all(graph, *inputs)
            arrays = [found[value] for value in values]
            return arrays if reduce is None else [reduce(array, np) for array in arrays]

        return probe


@dataclass(frozen=True, eq=False)
class Tried:
    """What became of a program.

    Args:
        text: The float program with its numbers, to show.
        fault: What it did that it must not, None where nothing.
        kind: `refused`, `not finite`, `warned` or `accurate`.
        parts: Its integer program without what is computed in floating point; None without any.
        inputs: Numbers that go into the parts.
        expected: What the reference makes of them.
        whole: The program with its floats, where these are computed from coded weights or scales of
            run time; it returns what floats decide too.
        given: Its inputs.
    """

    text: str
    fault: str | None
    kind: str
    parts: Graph | None = None
    inputs: tuple[Array, ...] = ()
    expected: tuple[Array, ...] = ()
    whole: Graph | None = None
    given: tuple[Array, ...] = ()


@st.composite
def quantizations(draw: Draw) -> Quantized:
    """Draws a program in f32, raised or as it is, the pipeline that quantizes it, and a recipe."""
    wide: FloatCase = draw(
        st.one_of(
            transformer_programs(), transformer_programs(), float_programs(), simple_programs()
        )
    )
    graph = clone(
        wide.graph,
        retype=lambda type: type.with_element(DType.F32) if type.is_float else type,
    )
    if draw(st.booleans()):
        graph = qir.optimize(graph, "raise")
    kept = draw(st.sampled_from(KEPT))
    present = any(f"op:{node.op.name}" == kept for node in graph.nodes)
    selectors = [kept] if present else []
    plain = f"{ACTIVATIONS}, {QuantizePass(keep_float=tuple(selectors))}, {INTEGER}"
    # Without weights most pipelines are the same.
    weighed = any(
        isinstance(node.op.quant, Accumulate) or isinstance(node.op, Embedding)
        for node in graph.nodes
    )
    plainly = draw(st.integers(0, 3)) < (1 if weighed else 3)
    pipeline = plain if plainly else draw(quantizing(selectors))
    inputs = tuple(
        array.astype(np.float32) if array.dtype == np.float64 else array for array in wide.inputs
    )
    recipe = draw(recipes(graph, pipeline)) if draw(st.integers(0, 2)) == 0 else ()
    return FloatCase(graph, inputs), pipeline, recipe


def attempt(case: FloatCase, pipeline: str, recipe: Sequence[RecipeRule] = ()) -> Tried:
    """Quantizes a program and judges its outputs."""
    text = f"{case.shown()}\n{pipeline}\n{Recipe(tuple(recipe)).text if recipe else ''}"
    with np.errstate(all="ignore"):
        exact = run_all(case.graph, *case.inputs)
    finite = all(np.isfinite(array).all() for array in exact.values() if array.dtype.kind == "f")
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            mock.patch("qir.backends.xla.executor.XlaExecutor", NumpyExecutor),
        ):
            warnings.simplefilter("always")
            integer = qir.quantize(case.graph, [case.inputs], pipeline, recipe=recipe or None)
        found = run_all(integer, *case.inputs)
    except QirError as error:
        folded = str(error).startswith("selector:") or any("in rule" in at for at in error.places)
        refused = f"refused though all its numbers are finite: {error}"
        fault = refused if finite and not folded else None
        return Tried(text, fault, "refused")
    except Exception:
        return Tried(text, f"raised {traceback.format_exc()}", "raised")
    other = [item for item in caught if not issubclass(item.category, QirAccuracyWarning)]
    if other:
        return Tried(text, f"warned {other[0].message}", "raised")
    parts, inputs, expected = integer_parts(integer, found)
    whole = with_cuts(integer) if any(map(_computes_on_decoded, integer.nodes)) else None
    pairs = [
        (exact[old], found[new])
        for old, new in zip(case.graph.outputs, integer.outputs, strict=True)
        if old.type.is_float
    ]
    figures = [ratio_in_decibels(*pair)[0] for pair in pairs]
    # That an input held one number is no word of what an output is worth.
    warned = any("signal to noise" in str(item.message) for item in caught)
    fault, kind = None, "warned" if warned else "accurate"
    if finite and not warned and min(figures, default=np.inf) < SILENT:
        fault = f"silently inaccurate, {min(figures):.1f} dB:\n{integer}"
    if finite and not all(np.isfinite(array).all() for _, array in pairs):
        fault = f"made a number that is not finite:\n{integer}"
    return Tried(text, fault, kind, parts, inputs, expected, whole, case.inputs)


def integer_parts(
    program: Graph, values: dict[Value, Array]
) -> tuple[Graph | None, tuple[Array, ...], tuple[Array, ...]]:
    """Cuts an integer program out of what is computed in floating point.

    Returns:
        The program whose inputs are those of the ops on codes, its inputs and its outputs.
    """
    made: dict[Value, None] = {}
    read: dict[Value, None] = {}
    wanted: dict[Value, None] = {}
    for node in program.nodes:
        if isinstance(node.op, Const):
            continue
        every = (*node.inputs, *node.outputs)
        exact = not isinstance(node.op, Return) and any(value.type.quant for value in every)
        for value in node.inputs:
            if exact and not value.is_constant and value not in made:
                read[value] = None
            if not exact and value in made:
                wanted[value] = None
        if exact:
            made.update(dict.fromkeys(node.outputs))
    if not wanted:
        return None, (), ()
    needed = {operand for value in wanted for operand in _cone(value, read)}
    inputs = [value for value in read if value in needed]
    part = program.extract(inputs, list(wanted))
    return part, tuple(values[value] for value in inputs), tuple(values[value] for value in wanted)


def _cone(value: Value, ends: Iterable[Value]) -> set[Value]:
    seen, stack, stop = set[Value](), [value], set(ends)
    while stack:
        one = stack.pop()
        if one in seen:
            continue
        seen.add(one)
        if one not in stop:
            stack.extend(one.inputs)
    return seen


def _computes_on_decoded(node: Node) -> bool:
    """Whether an op finds a scale at run time, or decodes a constant for ops on floats."""
    decodes = isinstance(node.op, Dequantize) and node.inputs[0].is_constant
    return decodes or isinstance(node.op, QuantizeDynamic)


def with_cuts(program: Graph) -> Graph:
    """Returns the program with what decides integers by floats among its outputs."""
    cuts = Uncertain.of(program).cuts
    # In the program's order, as how XLA fuses ops depends on it.
    inner = [value for value in program.values() if value in cuts]
    wanted = dict.fromkeys([*program.outputs, *inner])
    return program.extract(program.inputs, [value for value in wanted if not is_long(value.type)])


def differing(pack: Sequence[Tried]) -> list[Tried]:
    """Returns those of some programs of which XLA computes other numbers; one executable for all.

    Integers are compared; where a program was computed whole, floats within the bounds of their
    roundings. None is shrunk, which would compile hundreds.
    """
    chosen = [
        (one, graph, inputs)
        for one in pack
        for graph, inputs in ((one.parts, one.inputs), (one.whole, one.given))
        if graph is not None
    ]
    programs: list[Compiled] = [compile_graph(graph, kernels=False) for _, graph, _ in chosen]

    def all_of(parameters: list[Any], inputs: list[Any]) -> list[tuple[jax.Array, ...]]:
        return [
            program.function(given, *arrays)
            for program, given, arrays in zip(programs, parameters, inputs, strict=True)
        ]

    parameters = [program.parameters for program in programs]
    found = jax.jit(all_of)(parameters, [inputs for _, _, inputs in chosen])
    wrong: dict[Tried, None] = {}
    for (one, graph, inputs), outputs in zip(chosen, found, strict=True):
        if graph is one.parts:
            right = all(map(_equal, outputs, one.expected))
        else:
            arrays = dict(zip(graph.outputs, map(np.asarray, outputs), strict=True))
            with np.errstate(all="ignore"):
                right = difference(graph, inputs, arrays) is None
        if not right:
            wrong[one] = None
    return list(wrong)


def wrong_in_xla(pack: Sequence[Tried]) -> list[str]:
    """Returns what XLA does wrong on some programs, each with its program.

    Of a pack that raises an exception, each half is tried.
    """
    try:
        return [
            f"XLA's numbers differ\n{one.text}\n{one.parts}\n{one.whole}" for one in differing(pack)
        ]
    except Exception:
        if len(pack) == 1:
            return [f"XLA raised {traceback.format_exc()}\n{pack[0].text}\n{pack[0].whole}"]
    middle = len(pack) // 2
    return wrong_in_xla(pack[:middle]) + wrong_in_xla(pack[middle:])


def _equal(found: object, expected: Array) -> bool:
    return np.array_equal(np.asarray(found), expected, equal_nan=expected.dtype.kind == "f")


def judge(pack: Sequence[Quantized], compare: bool = True) -> tuple[Counter[str], list[str]]:
    """Tries some programs; returns what became of how many, and the faults.

    Args:
        pack: Programs and the pipelines that quantize them.
        compare: Whether XLA computes them too, which takes most of the time.
    """
    tried = [attempt(*drawn) for drawn in pack]
    counts = Counter(one.kind for one in tried)
    faults = [f"{one.fault}\n{one.text}" for one in tried if one.fault is not None]
    if compare:
        faults += wrong_in_xla(tried)
        counts["compared"] = sum(bool(one.parts or one.whole) for one in tried)
    counts["programs"], counts["faults"] = len(tried), len(faults)
    return counts, faults


def run_chunk(
    count: int, start: int, each: int = 1, pack: int = PACK
) -> tuple[Counter[str], list[str]]:
    """Draws and judges programs.

    Args:
        count: How many at the least; packs are whole.
        start: The seed.
        each: XLA computes the first pack, and every such one behind it; 0 for none.
        pack: Programs that are drawn and compiled together.
    """
    counts: Counter[str] = Counter()
    faults: list[str] = []
    packs = itertools.count()

    @seed(start)
    @settings(
        max_examples=1 + max(1, -(-count // pack)),
        phases=[Phase.generate],
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
        ],
    )
    @given(st.lists(quantizations(), min_size=pack, max_size=pack))
    def collect(drawn: list[Quantized]) -> None:
        number = next(packs)
        if number == 0:
            return  # All of the simplest programs are the same.
        more, found = judge(drawn, each > 0 and (number - 1) % each == 0)
        counts.update(more)
        faults.extend(found)

    collect()
    jax.clear_caches()
    return counts, faults


def any_seed() -> int:
    """Returns a seed that is another one each time."""
    return random.randrange(2**30)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="programs (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=480, help="of a chunk (default: %(default)s)")
    parser.add_argument(
        "--each",
        type=int,
        default=1,
        metavar="N",
        help=f"compare every Nth pack of {PACK} programs with XLA, 0 for none (default: all); "
        "that takes ten times as long as the rest",
    )
    parser.add_argument("--seed", type=int, help="of the first chunk (default: another each time)")
    options = parser.parse_args(arguments)
    start = any_seed() if options.seed is None else options.seed
    total: Counter[str] = Counter()
    began = time.monotonic()
    while total["programs"] < options.count:
        count = min(options.chunk, options.count - total["programs"])
        counts, faults = run_chunk(count, start, options.each)
        total.update(counts)
        for fault in faults:
            print(fault, flush=True)
        shown = ", ".join(f"{name} {total[name]}" for name in COUNTED)
        print(f"seed {start}: {shown}, {time.monotonic() - began:.0f} s", flush=True)
        start += 1
    sys.exit(total["faults"] > 0)


if __name__ == "__main__":
    main()
