"""What is told where jax finds nothing to run on."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from qir.errors import QirError


@contextmanager
def devices() -> Generator[None]:
    """Says in a sentence that jax has no device to run on, which it says in many ways."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        import jax

        try:
            jax.devices()
        except (AssertionError, RuntimeError) as reason:
            asked = os.environ.get("JAX_PLATFORMS", "")
            raise QirError(
                f"jax: found no device for JAX_PLATFORMS='{asked}'; "
                "unset it, or set it to cpu, to run on what is there",
                str(reason).splitlines()[:1],
            ) from error
        raise
