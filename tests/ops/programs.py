"""Programs of one op, written as text: the parser holds each to the op's type rule."""

from qir.ir import Graph
from qir.text import parse


def program(inputs: str, line: str, results: int = 1) -> Graph:
    """Returns the graph that takes `inputs` and returns the results of one op.

    Args:
        inputs: The parameters, such as ``%x: f32[2,3], %i: i32[4]``.
        line: The op with its result types, without the names of the results.
        results: Number of results.
    """
    names = ", ".join(f"%y{index}" for index in range(results))
    return parse(f"graph @test({inputs}) {{\n  {names} = {line}\n  return {names}\n}}")
