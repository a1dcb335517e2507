"""Programs as `qir.score` runs and measures them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from qir.api.devices import devices
from qir.api.running import compile
from qir.backends import Runnable
from qir.bench.timing import Contender, Times
from qir.errors import QirError, counted
from qir.ir import Graph, Value
from qir.ir.signature import Sizes
from qir.observe.batches import random_inputs
from qir.observe.sample import batch_name
from qir.passes.shared.calibration_data import batch_arrays, batch_sizes
from qir.types import Array

Race = Callable[[int], Sequence[Times]]
"""Times programs against each other, in so many turns."""


class ScoredProgram:
    """A program that is compiled when it is first run.

    Args:
        name: What it is called.
        graph: The program.
        backend: What runs it.
        index: The output that is looked at; None for all.

    Attributes:
        name: The same.
        graph: The same.
        outputs: The outputs that are looked at.
        samples: Samples of the batch that it is measured on; 0 where there is none yet.
    """

    def __init__(self, name: str, graph: Graph, backend: str, index: int | None) -> None:
        if index is not None and index >= len(graph.outputs):
            raise QirError(
                f"score: expected more than {counted(index, 'output')} of {name}, got "
                f"{len(graph.outputs)}"
            )
        self.name = name
        self.graph = graph
        self._backend = backend
        self._chosen = slice(None) if index is None else slice(index, index + 1)
        self.outputs: tuple[Value, ...] = tuple(graph.outputs[self._chosen])
        self.samples = 0
        self._inputs: Sequence[Array] = ()
        self._sizes = Sizes({})
        self._race: tuple[Race, int] | None = None
        self._unknown = [0] * len(self.outputs)
        self._known = [0] * len(self.outputs)

    @cached_property
    def _runnable(self) -> Runnable:
        try:
            return compile(self.graph, self._backend)
        except QirError as error:
            raise error.at(f"in {self.name}") from error

    def take(self, inputs: Any, subject: str) -> tuple[list[Array], int]:
        """Returns the arrays of a batch as the program takes them, and how many samples they are.

        Args:
            inputs: An array, a tuple of arrays or a dict by input name; real numbers are put into
                the code of an input.
            subject: What errors begin with.

        Raises:
            QirError: They don't fit the inputs.
        """
        try:
            arrays = [
                _stored(array, value)
                for array, value in zip(
                    batch_arrays(self.graph, inputs, subject), self.graph.inputs, strict=True
                )
            ]
            sizes = batch_sizes(self.graph, arrays, subject)
        except QirError as error:
            raise error.at(f"in {self.name}") from error
        count = 0 if sizes.empty else _samples(self.graph, arrays, sizes)
        if count and not self.samples:
            self._measure_on(arrays, sizes, count)
        return arrays, count

    def measure_on_random(self, seed: int) -> None:
        """Takes random inputs of one sample to measure on."""
        arrays = random_inputs(self.graph, seed, 1)
        sizes = batch_sizes(self.graph, arrays, "score")
        self._measure_on(arrays, sizes, _samples(self.graph, arrays, sizes))

    def _measure_on(self, arrays: Sequence[Array], sizes: Sizes, samples: int) -> None:
        # A loader may give the next batch in the same buffers.
        self._inputs, self._sizes = [np.array(array) for array in arrays], sizes
        self.samples = samples

    def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Computes the outputs that are looked at, in real numbers."""
        try:
            found = self._runnable(*arrays)
        except QirError as error:
            raise error.at(f"in {self.name}") from error
        pairs = zip(self.outputs, found[self._chosen], strict=True)
        outputs = tuple(_real(np.asarray(array), value) for value, array in pairs)
        for index, output in enumerate(outputs):
            self._known[index] += len(output) if output.ndim else 1
            if output.dtype.kind == "f":
                rows = np.isnan(output.reshape(len(output) if output.ndim else 1, -1)).any(1)
                self._unknown[index] += int(rows.sum())
        return outputs

    def notes(self) -> list[str]:
        """Says of which outputs rows were NaN."""
        return [
            f"{self.name}: {unknown:,} of {known:,} rows of %{value.name} have NaN in them"
            for value, unknown, known in zip(self.outputs, self._unknown, self._known, strict=True)
            if unknown
        ]

    def contender(self) -> Contender:
        """Returns a call of the program on what it is measured on, which lies on the device."""
        given: Sequence[Any] = self._inputs
        if self._backend == "xla":
            with devices():
                import jax

                given = [jax.device_put(array) for array in self._inputs]

        def call() -> None:
            for output in self._runnable(*given):
                if hasattr(output, "block_until_ready"):
                    output.block_until_ready()

        call()  # compiles
        return Contender(self.name, call)

    def enter(self, race: Race, place: int) -> None:
        """Tells who times the program, and at which place its times stand."""
        self._race = race, place

    def times(self, rounds: int) -> Times:
        """Returns the seconds of calls, in turns with the other programs."""
        if self._race is None:
            raise QirError(f"score: expected {self.name} to be measured with the others")
        race, place = self._race
        return race(rounds)[place]

    def peak_bytes(self) -> int:
        """Returns the bytes that a call takes.

        Raises:
            QirError: The backend does not tell.
        """
        memory = getattr(self._runnable, "memory", None)
        if memory is None:
            raise QirError(
                f"expected a backend that plans memory, such as xla, got {self._backend}"
            )
        return int(memory(self._sizes.names).total)


def _stored(array: Array, value: Value) -> Array:
    code = value.type.quant
    if code is None or array.dtype.kind != "f":
        return array
    code.check(array.shape)
    return code.encode(array)


def _real(array: Array, value: Value) -> Array:
    """Returns an output in real numbers, in float32 where numpy has no word for its type."""
    if value.type.quant is not None:
        return value.type.quant.decode(array)
    return array.astype(np.float32) if value.type.is_float and array.itemsize < 4 else array


def _samples(graph: Graph, arrays: Sequence[Array], sizes: Sizes) -> int:
    name = batch_name(graph)
    if name is not None:
        return int(sizes.names[name])
    return next((len(array) for array in arrays if array.ndim), 1)
