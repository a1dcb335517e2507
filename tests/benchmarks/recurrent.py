"""QIR int8 against float JAX on recurrent layers of flax, in turns and on one thread.

Run `python -m tests.benchmarks.recurrent`. Float JAX is `jax.jit` of `flax.linen.RNN`, a
`lax.scan` over the trips, with the parameters as arguments; the int8 program is what `from_jax` and
the pipeline w8a8 make of it with 8 batches. Sequences are 100 trips of 128 features, layers have
128 units. The whole outputs are compared with the reference interpreter, and the exit status is 1
where a number differs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen

from qir.bench.machine import this_machine
from tests.benchmarks.models import Model
from tests.benchmarks.vision import LIBRARIES, ROUNDS, measure, prepare

TRIPS, UNITS = 100, 128
BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Recurrent(Model):
    """A recurrent layer with the shape of the sequences that it is measured on."""

    def images(self, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Draws sequences [batch, trip, feature] of a slow wave and noise."""
        rng = np.random.default_rng(seed)
        batch, trips, features = self.shape
        speed, phase = rng.uniform(0.05, 0.5, (2, batch, 1, features))
        wave = np.sin(speed * np.arange(trips)[:, None] + 12 * phase)
        return np.asarray(wave + rng.normal(0, 0.3, self.shape), np.float32)


CELLS: dict[str, Callable[[], linen.RNNCellBase]] = {
    "lstm": lambda: linen.OptimizedLSTMCell(UNITS),
    "gru": lambda: linen.GRUCell(UNITS),
}
"""The cells, by name."""


def model_of(cell: str, batch: int, trips: int = TRIPS) -> Recurrent:
    """Returns a layer and the shape of its sequences."""
    layer: Any = linen.RNN(CELLS[cell]())
    shape = (batch, trips, UNITS)

    def init(seed: int) -> Any:
        return jax.jit(layer.init)(jax.random.key(seed), np.zeros(shape, np.float32))

    return Recurrent(cell, lambda params, x: layer.apply(params, x), init, shape)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table for each layer and batch; returns 1 where a number differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cells", nargs="*", metavar="cell", help=f"some of {', '.join(CELLS)} (default: all)"
    )
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        default=BATCHES,
        help="sequences at a time (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in options.cells:
        if name not in CELLS:
            parser.error(f"no cell {name}: expected one of {', '.join(CELLS)}")
    if min(options.rounds, *options.batches) < 1:
        parser.error("expected numbers of at least 1")
    if hasattr(os, "sched_setaffinity"):
        # Before jax counts the cores.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    machine = this_machine()
    print(f"{machine}; jax {jax.__version__} on {jax.default_backend()}, one thread")
    if machine.busy:
        print(machine.warning)
    exact = True
    for name in options.cells or CELLS:
        for batch in options.batches:
            result = measure(prepare(model_of(name, batch)), options.rounds, LIBRARIES)
            print(result, flush=True)
            exact = exact and result.exact
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
