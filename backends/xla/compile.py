"""Compiles a graph into one XLA executable that composes with what jax does to functions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax import export
from jax.typing import ArrayLike

from qir.analysis.claims import drop_false_claims
from qir.backends.xla.check import Checker
from qir.backends.xla.choice import Chooser, preferred, report
from qir.backends.xla.faults import Faults
from qir.backends.xla.kernel_choice import chosen_kernels
from qir.backends.xla.kernels import Kernels
from qir.backends.xla.measure import Measurements
from qir.backends.xla.narrow import fit, narrow
from qir.backends.xla.program import XlaProgram, nodes_of
from qir.backends.xla.regions import Ran
from qir.errors import QirError, counted
from qir.ir import Graph
from qir.ir.signature import Sizes, bind, check_sizes, named_dimensions, ports, to_array
from qir.types import Array

PLATFORMS = ("cpu", "cuda", "tpu")
ARRAYS = (jax.Array, np.ndarray)


@dataclass(frozen=True)
class PlannedMemory:
    """The memory that a call takes, in bytes: what is allocated for it, all of it counted as alive.

    Args:
        arguments: Inputs, and parameters that the program reads.
        outputs: Outputs.
        temporary: What XLA keeps between ops.
        kernels: What generated kernels keep, temporary tensors and scratch of each thread.
    """

    arguments: int
    outputs: int
    temporary: int
    kernels: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.arguments + self.outputs + self.temporary + self.kernels


class Compiled:
    """A graph as a function of arrays.

    Calling it checks the inputs and runs one jitted program, compiled anew for new sizes of named
    dimensions. It can be called inside `jax.jit`, with the same integers as outside, and under
    `jax.vmap`.

    Args:
        graph: The graph; later changes of it don't change the program.
        choose: Chooses the way in which each op is computed.
        warnings: Lines for the report.
        kernels: What computes parts of it by machine code of its own.

    Attributes:
        inputs: Name, shape, type and code of each input.
        outputs: Name, shape, type and code of each output.
        parameters: The arrays that the program takes beside its inputs, on the default device.
        lowerings: Name of the way in which each value is computed, by the value's name.
        report: A table of these ways with the reason for each, and warnings.

    Raises:
        QirError: A value has 64 bits, or an op has no lowering or a rounding mode that XLA does not
            compute; the place is named.
    """

    def __init__(
        self,
        graph: Graph,
        choose: Chooser = preferred,
        warnings: Sequence[str] = (),
        kernels: Kernels | None = None,
    ) -> None:
        self._graph, graph = graph.copy(), graph.copy()
        self._narrowed = narrow(graph)
        # A way by certificate is taken on its word; an edited text may be wrong in it.
        warnings = [*warnings, *drop_false_claims(graph)]
        self._choose = choose
        self._program = XlaProgram(graph, graph.outputs, choose, kernels)
        self._kernels = kernels
        self.inputs = ports(graph.inputs)
        self.outputs = ports(graph.outputs)
        choices = self._program.choices
        self.lowerings = {name: choice.way.name for (name, _), choice in choices.items()}
        self.report = report(choices, warnings)
        with jax.ensure_compile_time_eval():
            self.parameters: dict[str, jax.Array] = jax.device_put(self._program.arrays)
        self._jitted = jax.jit(self.function)
        self._watched = jax.jit(self._run) if self._program.endless else None
        self._fitting: set[tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]] = set()

    def __call__(self, *inputs: ArrayLike) -> tuple[jax.Array, ...]:
        """Computes the outputs.

        Args:
            inputs: One array for each input, of its shape and numpy type; stored numbers where it
                has a code. Where the program that was compiled takes i64, these numbers may have 32
                or 64 bits, and must fit into 32.

        Raises:
            QirError: An input does not fit, two disagree about a named dimension, this is a fork of
                a process that ran generated kernels, or a while loop was stopped after its
                `max_trips`; inside of what jax traces the last can't be known, and the results are
                those of the last trip.
        """
        if self._kernels is not None:
            self._kernels.check_process()
        arrays: Sequence[ArrayLike] = inputs
        kinds = tuple([(given.shape, given.dtype) for given in inputs if isinstance(given, ARRAYS)])
        if kinds not in self._fitting:
            arrays = self._fit(inputs)
            if not self._narrowed and all(map(operator.is_, arrays, inputs)):
                self._fitting.add(kinds)
        if self._watched is not None:
            found: Ran = self._watched(self.parameters, *arrays)
            self._program.check_end(found.endless)
            return found.results
        results: tuple[jax.Array, ...] = self._jitted(self.parameters, *arrays)
        return results

    def _fit(self, inputs: Sequence[ArrayLike]) -> Sequence[ArrayLike]:
        """Returns inputs as the program takes them; raises QirError where they don't fit."""
        if len(inputs) != len(self.inputs):
            raise QirError(f"run: expected {counted(len(self.inputs), 'input')}, got {len(inputs)}")
        arrays = [
            given if isinstance(given, jax.Array) else to_array(given, value, "run")
            for given, value in zip(inputs, self._program.inputs, strict=True)
        ]
        fitting = fit(self._narrowed, arrays, self._program.inputs)
        bind(self._program.inputs, fitting)
        return fitting

    def function(
        self, parameters: Mapping[str, jax.Array], *inputs: jax.Array
    ) -> tuple[jax.Array, ...]:
        """The program as a pure function, for transformations that are to see the parameters.

        Args:
            parameters: `parameters`, or other arrays of the same shapes and types.
            inputs: One array for each input.
        """
        return self._run(parameters, *inputs).results

    def _run(self, parameters: Mapping[str, jax.Array], *inputs: jax.Array) -> Ran:
        """Returns the outputs, and the number of a while loop that was stopped."""
        sizes = bind(self._program.inputs, inputs)
        if self._kernels is not None and sizes.empty:
            # Kernels are for tensors with numbers; without any it takes no time.
            return self.portable._run(self.portable.parameters, *inputs)
        return self._program.run(parameters, inputs, sizes)

    @cached_property
    def portable(self) -> Compiled:
        """The same program without generated kernels, for every platform."""
        return Compiled(self._graph, self._choose) if self._kernels else self

    def partition(self, sizes: Mapping[str, int] | None = None) -> str:
        """Returns how the program is divided into calls of generated kernels and ops for XLA.

        Of each call: where its operands, results and temporary tensors lie, and of each step the
        nodes, the kernel, the tasks and the scratch memory. Of each op that is left to XLA: why.

        Args:
            sizes: The size of each named dimension of the inputs.

        Raises:
            QirError: A size is missing, 0, or of a dimension that no input has.
        """
        for name, size in (sizes or {}).items():
            if size == 0:
                raise QirError(f"partition: expected {name} to be at least 1, got 0")
        return self._program.partition(self._sizes(sizes or {}, "partition"))

    def lower(self, sizes: Mapping[str, int] | None = None) -> jax.stages.Lowered:
        """Lowers the program for the default platform.

        Args:
            sizes: The size of each named dimension of the inputs.

        Raises:
            QirError: A size is missing, or of a dimension that no input has.
        """
        return self._jitted.lower(self.parameters, *self._specs(self._sizes(sizes or {}, "lower")))

    def memory(self, sizes: Mapping[str, int] | None = None) -> PlannedMemory:
        """Returns the memory that a call takes on the default platform; compiles for that.

        Args:
            sizes: The size of each named dimension of the inputs.

        Raises:
            QirError: A size is missing, or of a dimension that no input has; or XLA does not tell.
        """
        known = self._sizes(sizes or {}, "memory")
        planned = self.lower(sizes).compile().memory_analysis()
        if planned is None:
            raise QirError(
                "memory: expected XLA to tell what it has planned, got nothing on "
                f"{jax.default_backend()}"
            )
        return PlannedMemory(
            planned.argument_size_in_bytes,
            planned.output_size_in_bytes - planned.alias_size_in_bytes,
            planned.temp_size_in_bytes,
            self._program.kernel_memory(known),
        )

    def stablehlo(self, sizes: Mapping[str, int] | None = None) -> str:
        """Returns the StableHLO text of the program; see `lower`."""
        return self.lower(sizes).as_text()

    def export(
        self,
        platforms: Sequence[str] = PLATFORMS,
        sizes: Mapping[str, int] | None = None,
        *,
        bake: bool = True,
    ) -> export.Exported:
        """Exports the program in the portable form of `jax.export`, one for all platforms.

        What is exported is `portable`: machine code does not leave the process.

        Args:
            platforms: The platforms that it can run on.
            sizes: Sizes to fix named dimensions at; names that are left out stay symbolic.
            bake: Whether the parameters are part of the exported program, which then takes the
                inputs alone. Otherwise its first argument is the dict `portable.parameters`.

        Raises:
            QirError: A size is of a dimension that no input has, or the program depends on a
                symbolic one.
        """
        if self._kernels is not None:
            return self.portable.export(platforms, sizes, bake=bake)
        fixed = dict(sizes or {})
        check_sizes(self._program.inputs, fixed)
        names = [name for name in named_dimensions(self._program.inputs) if name not in fixed]
        symbols = export.symbolic_shape(",".join(names)) if names else ()
        known = Sizes({**fixed, **dict(zip(names, symbols, strict=True))})

        def whole(*inputs: jax.Array) -> tuple[jax.Array, ...]:
            return self._program(self.parameters, inputs, known)

        def separate(
            parameters: Mapping[str, jax.Array], *inputs: jax.Array
        ) -> tuple[jax.Array, ...]:
            return self._program(parameters, inputs, known)

        specs = self._specs(known)
        if bake:
            return export.export(jax.jit(whole), platforms=platforms)(*specs)
        return export.export(jax.jit(separate), platforms=platforms)(self.parameters, *specs)

    def _sizes(self, sizes: Mapping[str, int], subject: str) -> Sizes:
        check_sizes(self._program.inputs, sizes)
        for name in named_dimensions(self._program.inputs):
            if name not in sizes:
                raise QirError(
                    f"{subject}: expected a size for the dimension {name}, such as "
                    f'{subject}({{"{name}": 8}})'
                )
        return Sizes(sizes)

    def _specs(self, sizes: Sizes) -> list[jax.ShapeDtypeStruct]:
        struct: Callable[..., jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct
        return [struct(sizes.shape(port.shape), port.dtype) for port in self.inputs]

    def __copy__(self) -> Compiled:
        return self

    def __deepcopy__(self, memo: object) -> Compiled:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise QirError(
            "pickle: expected what can leave the process, got a compiled program; qir.save its "
            "graph and compile that where it is to run, or take program.export().serialize()"
        )

    def __repr__(self) -> str:
        return f"<compiled {repr(self._graph)[1:]}"

    def __str__(self) -> str:
        size = sum(array.nbytes for array in self.parameters.values())
        lines = ["inputs", *(f"  {port}" for port in self.inputs)]
        lines += ["outputs", *(f"  {port}" for port in self.outputs)]
        arrays = counted(len(self.parameters), "array")
        return "\n".join([*lines, f"parameters: {arrays}, {counted(size, 'byte')}"])


def compile_graph(
    graph: Graph,
    *,
    measure: bool = False,
    kernels: bool | None = None,
    check: bool | Sequence[Array] = False,
) -> Compiled:
    """Compiles a graph by the ways that were measured to be the fastest on this machine.

    Args:
        graph: The graph.
        measure: Whether to measure first what the cache does not know yet.
        kernels: Whether to use generated kernels; None to use them where there are some.
        check: Whether to compare the program with the reference, on generated inputs or on the
            given ones, and to take other ways where it differs.

    Raises:
        QirError: A value has 64 bits, an op has no lowering (the place is named), kernels are
            wanted where there are none, or every way to compute an op is wrong.
    """
    generated, why_not = chosen_kernels(kernels)
    measurements = Measurements()
    faults = Faults(measurements.table)
    if generated is not None:
        generated = generated.without(faults.refused)
    warnings = [why_not] if why_not else []
    if check is not False or measure:
        # What is measured and compared are the ways that the program will have.
        graph = graph.copy()
        warnings += drop_false_claims(graph)
    lowered = graph.copy()
    narrowed = narrow(lowered)
    if measure:
        nodes = nodes_of(lowered, lowered.outputs)
        computed = generated.computed(nodes, lowered.outputs) if generated is not None else ()
        measurements.add(lowered, computed)
    choose = faults.avoiding(measurements.choose)
    if check is not False:
        samples = () if check is True else [fit(narrowed, check, lowered.inputs)]
        Checker(lowered, choose, generated, faults, samples).settle()
    return Compiled(graph, choose, [*measurements.table.warnings, *warnings], generated)
