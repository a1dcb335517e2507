"""Arrays that XLA stores on CPU, where it would compute them anew for every reader.

XLA on CPU fuses a cheap computation into each of its readers, and what it calls cheap includes a
whole requantization: nine taps of a window requantize everything nine times, and the sums of a
residual network are computed again in every later block. An `optimization_barrier` does not hinder
it, because barriers are gone before fusion. A call that is not inlined does: what enters and leaves
it is stored. Other platforms decide well by themselves and see nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax

from qir.interop.jax_internals import set_xla_metadata


def stored(x: jax.Array) -> jax.Array:
    """Returns an array that is computed once, however many read it."""
    return applied_apart(_itself, x)


def applied_apart(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Returns function(x), of which neither x nor the result is computed more than once.

    Args:
        function: Traceable by jax.
        x: What it is applied to.
    """

    def call(x: jax.Array) -> jax.Array:
        with set_xla_metadata(inlineable="false"):  # type: ignore[no-untyped-call]
            found: jax.Array = jax.jit(function)(x)
        return found

    result: jax.Array = lax.platform_dependent(x, cpu=call, default=function)
    return result


def _itself(x: jax.Array) -> jax.Array:
    return x
