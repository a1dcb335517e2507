"""The manager that runs pipelines."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from qir.analysis.claims import drop_false_claims
from qir.analysis.equivalence import Interpreter, check_equivalent, in_float64, in_types_of
from qir.analysis.properties import FLOAT
from qir.analysis.traits import check_traits
from qir.analysis.verify import verify, verify_structure
from qir.errors import PassError, QirError
from qir.ir import Graph
from qir.pipeline.context import Context
from qir.pipeline.recipes import Recipe
from qir.pipeline.registry import Pass
from qir.pipeline.text import Pipeline, Repeat
from qir.text import to_program
from qir.text.files import make_folder, write_atomically
from qir.types import Array, DType

LARGE = 2**28
"""Bytes of constants that passes have taken out for which what holds them is looked for at once:
that takes a fifth of a second, and quantizing as many weights takes several."""


@dataclass
class PassManager:
    """Runs a pipeline over a graph.

    Args:
        pipeline: The passes.
        dump_dir: Folder for `00-input.qir`, `01-<pass>.qir`, …, or None; a file is written when the
            text changed.
        print_after_all: Stream that gets the text after every pass, or None.
        check_inputs: Arrays with which to check after each pass that the program still computes the
            same, and at both ends that ops which do not come with QIR do what their traits say.
    """

    pipeline: Pipeline
    dump_dir: Path | None = None
    print_after_all: TextIO | None = None
    check_inputs: Sequence[Array] | None = None

    def run(self, graph: Graph, context: Context) -> Graph:
        """Runs the passes over a copy of the graph and returns the copy; the graph stays as it is.

        Raises:
            PassError: A pass is less exact than the pipeline allows, does not find what it
                requires, fails, or leaves a graph that is invalid or computes something else. The
                message names it.
        """
        self._check_exactness()
        self._check_followed(context.recipe)
        result = graph.copy()
        if not _has_origins(result):
            result.record_origins()
        context.allow = self.pipeline.allow
        context.unattained.clear()
        if not FLOAT.missing(result):
            context.reference = graph if _has_origins(graph) else result.copy()
        verify(result)
        self._check_traits(result, context)
        self._verified = result.revision
        self._dumped, self._dumped_at = "", -1
        self._count = 0
        self._dump(result, "input")
        self._known = known = len(context.diagnostics)
        for step in self.pipeline.steps:
            self._step(step, result, context)
        context.layer_rows = {}
        self._check_traits(result, context)
        result.diagnostics += tuple(context.diagnostics[known:])
        return result

    def _check_traits(self, graph: Graph, context: Context) -> None:
        if self.check_inputs is not None and context.interpreter is not None:
            check_traits(graph, self.check_inputs, context.interpreter)

    def _check_exactness(self) -> None:
        for step in _flat(self.pipeline.steps):
            if step.effect == "within_1lsb" and self.pipeline.allow == "exact":
                raise PassError(
                    f"pipeline: {step} is within 1 LSB, not exact; put allow(within_1lsb) into the "
                    "pipeline to permit it"
                )

    def _check_followed(self, recipe: Recipe | None) -> None:
        steps = list(_flat(self.pipeline.steps))
        followed = {name for step in steps for name in step.follows}
        for index, rule in enumerate(() if recipe is None else recipe.rules, 1):
            for name in rule.choices.keys() - followed:
                raise PassError(
                    f"recipe: {name}: expected a pipeline with a pass that follows such a rule, as "
                    f"w8a8 has, got '{self.pipeline}'",
                    [f"in rule {index}, {rule}"],
                )

    def _step(self, step: Pass, graph: Graph, context: Context) -> None:
        if isinstance(step, Repeat):
            known = graph.description()
            for _ in range(32):
                revision = graph.revision
                for inner in step.steps:
                    self._step(inner, graph, context)
                # What rewrites try and take back are edits that may leave the graph as it was.
                if graph.revision == revision or (found := graph.description()) == known:
                    return
                known = found
            raise PassError(f"pipeline: {step} does not come to an end in 32 rounds")
        for wanted in step.needs:
            if reason := wanted.missing(graph):
                if wanted in context.unattained:
                    if len(context.diagnostics) == self._known:
                        context.diagnostics.append(f"pipeline: {step.name} is left out: {reason}")
                    return
                raise PassError(
                    f"pipeline: {step.name} needs {wanted.name}: {reason}; {wanted.remedy}"
                )
        before = (
            graph.copy() if self.check_inputs is not None and step.effect != "approximate" else None
        )
        revision, start = graph.revision, time.perf_counter()
        try:
            step.run_everywhere(graph, context)
        except QirError as error:
            raise error.at(f"in pass {step}") from error
        except Exception as error:
            error.add_note(f"in pass {step}")
            raise
        context.timings.append((str(step), time.perf_counter() - start))
        graph.settle_names()
        context.edited.append(graph.revision != revision)
        if context.versions is not None and context.edited[-1]:
            context.versions.append((step, graph.copy()))
        if not context.edited[-1]:
            before = None
        self._count += 1
        if graph.erased_bytes > LARGE:
            # Nodes and values refer to one another, and Python's collector counts no bytes.
            gc.collect()
            graph.erased_bytes = 0
        try:
            try:
                self._verify(step, graph, context)
            finally:
                self._dump(graph, step.name)
            if (
                before is not None
                and self.check_inputs is not None
                and context.interpreter is not None
            ):
                self._check(step, before, graph, context, self.check_inputs, context.interpreter)
            for promised in step.ensures:
                if promised in context.unattained:
                    continue
                if reason := promised.missing(graph):
                    raise PassError(
                        f"pipeline: {step.name} should have left {promised.name}: {reason}"
                    )
        except QirError as error:
            where = f", dumped in {self.dump_dir}" if self.dump_dir else ""
            raise error.at(f"after pass {step}{where}") from error

    def _verify(self, step: Pass, graph: Graph, context: Context) -> None:
        if graph.revision == self._verified:
            return
        verify_structure(graph)
        for dropped in drop_false_claims(graph):
            context.diagnostics.append(f"{step.name}: drops a certificate, {dropped}")
        self._verified = graph.revision

    @staticmethod
    def _check(
        step: Pass,
        before: Graph,
        after: Graph,
        context: Context,
        inputs: Sequence[Array],
        interpreter: Interpreter,
    ) -> None:
        allowed = 1 if step.effect == "within_1lsb" else 0
        try:
            check_equivalent(before, after, inputs, interpreter, steps=allowed)
        except PassError as error:
            types = {value.type.element for value in before.values()}
            if FLOAT.missing(before) or DType.F32 not in types or types & {DType.F16, DType.BF16}:
                raise
            # What a pass folds is rounded to f32; the same pass over f64 shows what else it does.
            twin = in_float64(before)
            changed, wide = twin.copy(), in_types_of(twin, inputs)
            step.run_everywhere(changed, replace(context, diagnostics=[]))
            try:
                check_equivalent(twin, changed, wide, interpreter, steps=allowed)
            except PassError:
                raise error from None

    def _dump(self, graph: Graph, name: str) -> None:
        if self.print_after_all is not None:
            print(f"// after {name}\n{graph}\n", file=self.print_after_all)
        if self.dump_dir is None or graph.revision == self._dumped_at:
            return
        self._dumped_at = graph.revision
        text = to_program(graph).text
        if text != self._dumped:
            make_folder(self.dump_dir)
            path = self.dump_dir / f"{self._count:02d}-{name}.qir"
            write_atomically({path: lambda file: file.write(text.encode())})
            self._dumped = text


def _has_origins(graph: Graph) -> bool:
    return any(value.origin for value in graph.values())


def _flat(steps: Iterable[Pass]) -> Iterator[Pass]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _flat(step.steps)
        else:
            yield step
