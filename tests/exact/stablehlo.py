"""What the StableHLO of a program holds."""

from __future__ import annotations

import re
from typing import Any

import jax

WIDE = re.compile(r"(?:x|<)(?:i64|ui64|f64)>")


def forbidden(lowered: jax.stages.Lowered) -> set[str]:
    """Returns the results of 64 bits and the calls out of the program, callbacks among them."""
    found: set[str] = set()

    def visit(operation: Any) -> None:
        found.update(
            f"{operation.name}: {result.type}"
            for result in operation.results
            if WIDE.search(str(result.type))
        )
        if operation.name == "stablehlo.custom_call":
            found.add(str(operation.attributes["call_target_name"]))
        for region in operation.regions:
            for block in region:
                for inner in block:
                    visit(inner.operation)

    module: Any = lowered.compiler_ir("stablehlo")
    visit(module.operation)
    return found
