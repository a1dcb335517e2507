"""The codes that a program has before it is quantized, which quantize keeps."""

from __future__ import annotations

from qir.ir import Graph, Value
from qir.ops import Dequantize, Quantize
from qir.types import Affine


class GivenCodes:
    """What of a program has a code already: constants that are decoded, and what quantize rounds.

    Decoded constants become constants of floats until `restore`, so that they are weights to all
    that looks for weights.

    Args:
        graph: A program, which is changed.

    Attributes:
        constants: The stored constant that each decoded one stands for.
        results: The code per tensor of each value that a quantize rounds.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants: dict[Value, Value] = {}
        self.results: dict[Value, Affine] = {}
        for node in list(graph.nodes):
            match node.op:
                case Dequantize() if (stored := node.inputs[0]).is_constant:
                    real = graph.before(node).const(stored.real, None, node.output.type.dtype)
                    node.output.replace_with(real)
                    graph.erase(node)
                    self.constants[real] = stored
                case Quantize(to=Affine() as code) if code.per_tensor:
                    self.results.setdefault(node.inputs[0], code)
                case _:
                    continue

    def restore(self) -> None:
        """Decodes again what is still read as floats."""
        for real, stored in self.constants.items():
            if real.node is None or real.node.erased:
                continue
            if real.uses:
                builder = self.graph.before(real.node)
                assert stored.node is not None
                if stored.node.erased:  # Nothing read it meanwhile.
                    stored = builder.const(stored.array, stored.name, stored.type.element)
                real.replace_with(builder.emit(Dequantize(), stored))
            self.graph.erase(real.node)
