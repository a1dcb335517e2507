"""The fake-quantized twin of a program of codes: real numbers, rounded where it rounds.

After Jacob et al. 2018 (arXiv:1712.05877), section 3, but of a program that is quantized already:
what is fused, shared or summed exactly there is so here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qir.analysis.float_twin import FloatTwin
from qir.analysis.sites import NUMBERS, Site, has_steps, site_of, sites_of
from qir.ir import Graph, Value
from qir.types import Array

FINEST = 80
"""How many bits below the greatest number of a code a step is that rounds no number of any use."""


@dataclass(frozen=True)
class Simulation:
    """A float program that gives what a program of codes gives, but for ties of roundings.

    Its inputs are those of the program, in real numbers where these have codes, and then `codes`,
    f32 with `NUMBERS` numbers for each site: step, least and greatest number. Its outputs are the
    program's in real numbers. At each site

        min(max(round(x / step) * step, least), greatest)

    is taken of float32 numbers, halves going to the even step. Whatever has no code is computed as
    in the program. Sums that are exact integers there are float32 sums here, within (n + 2) * 2^-24
    of the sum of the magnitudes of their n products; tables of exponentials, reciprocals and norms,
    which are integers there, are within their own bounds of the real function, 2^-20 of the largest
    number. A number may be one step off where it lies that near to the middle of two steps, which
    few do: twice that distance over a step, of numbers spread evenly.

    Ops that have a meaning on codes alone, such as lookups, are computed on these as they are.

    A constant whose real numbers are known is a site too, and its own code rounds them to what the
    program has. A bias beside such weights is its real number plus what the program's differs by
    times the ratio of the step to that of the weights' own code: what it takes in of the error of
    these grows as that does.

    Attributes:
        graph: The float program.
        sites: The sites, in the order of `codes`.
        twins: The value of `graph`, or of a region of it, for each value of the program.
    """

    graph: Graph
    sites: tuple[Site, ...]
    twins: Mapping[Value, Value]

    def codes(
        self, changed: Mapping[Site, tuple[float, float, float] | None] | None = None
    ) -> Array:
        """Returns what the input `codes` takes: float32[3 * sites], of 1 site where there is none.

        Args:
            changed: For some sites the `numbers_of` another code, or None for no rounding at all.
                Of a site whose scale varies by place, all scales change in proportion, and all
                bounds move as far.
        """
        found = np.zeros((max(1, len(self.sites)), NUMBERS), np.float32)
        for index, site in enumerate(self.sites):
            numbers = site.numbers
            if changed is not None and site in changed:
                other = changed[site]
                _, exponent = np.frexp(max(map(abs, numbers)))
                numbers = other or (2.0 ** (int(exponent) - FINEST), -np.inf, np.inf)
            found[index] = numbers
        return found.reshape(-1)


def simulate(program: Graph, weights: Mapping[Value, Array] | None = None) -> Simulation:
    """Builds the fake-quantized twin of a program as it is right after pass quantize.

    Args:
        program: The program of codes; it stays as it is.
        weights: For constants of it the real numbers that they were before they got codes: of
            weights, which then are sites behind all others, and of biases.

    Raises:
        QirError: An op has no meaning in real numbers, and an operand that is an exact sum.
    """
    known = weights or {}
    coded = [site_of(value) for value in known if value.type.dtype.bits <= 16 and has_steps(value)]
    sites = (*sites_of(program), *coded)
    twin = FloatTwin(program, sites, known)
    return Simulation(twin.graph, sites, twin.twins)
