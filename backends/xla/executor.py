"""What passes run graphs with: the XLA side of the `Executor` protocol of `qir.pipeline`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qir.backends.xla.narrow import fit, narrow
from qir.backends.xla.program import XlaProgram
from qir.ir import Graph, Value
from qir.ir.signature import bind
from qir.types import Array


class XlaExecutor:
    """Runs graphs for passes."""

    def probe(
        self,
        graph: Graph,
        values: Sequence[Value],
        reduce: Callable[[Any, Any], Any] | None = None,
    ) -> Callable[..., list[Any]]:
        """Compiles a function from input arrays to values inside the graph, in one program.

        Args:
            graph: The graph.
            values: The values to return.
            reduce: `reduce(array, xp)`, written against an array namespace, applied to each value
                where it is computed, so that only its result is kept.

        Returns:
            A function that returns what `reduce` does for each value, or the value itself.
        """
        # The names of values are the same in a copy.
        lowered = graph.copy()
        narrowed = narrow(lowered)
        program = XlaProgram(lowered, [lowered.value(value.name) for value in values])
        parameters: dict[str, jax.Array] = jax.device_put(program.arrays)

        def compute(parameters: Mapping[str, jax.Array], *inputs: jax.Array) -> tuple[Any, Any]:
            found = program.run(parameters, inputs, bind(program.inputs, inputs, "probe"))
            arrays = [array if reduce is None else reduce(array, jnp) for array in found.results]
            return arrays, found.endless

        jitted = jax.jit(compute)

        def probe(*inputs: Array) -> list[Any]:
            arrays = fit(narrowed, inputs, program.inputs)
            bind(program.inputs, arrays, "probe")
            results: list[Any]
            results, endless = jitted(parameters, *arrays)
            program.check_end(endless)
            return results

        return probe

    def as_jax(self, graph: Graph) -> Callable[..., tuple[jax.Array, ...]]:
        """Returns a function `f(parameters, *inputs)` of a float graph, differentiable in both.

        `parameters` are arrays by the name of the graph's constant, the first one's where several
        share an array; those that are left out keep their values.
        """
        # Calibration, which compiles no program whole, need not load what that takes.
        from qir.backends.xla.compile import Compiled

        compiled = Compiled(graph)

        def function(
            parameters: Mapping[str, jax.Array], *inputs: jax.Array
        ) -> tuple[jax.Array, ...]:
            return compiled.function({**compiled.parameters, **parameters}, *inputs)

        return function
