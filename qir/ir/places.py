"""Where nodes stand in a program with regions: names of values with those of the ops around."""

from __future__ import annotations

from collections.abc import Iterator

from qir.ir.graph import Graph
from qir.ir.node import Node
from qir.ir.value import Value


def walk_places(graph: Graph, around: str = "") -> Iterator[tuple[Node, str]]:
    """Yields every node, and after each those of its regions, with the op around it.

    Args:
        graph: The program.
        around: What stands around the graph.

    Returns:
        The nodes, each with the first result of the op that it stands in and a slash, behind that
        of the op around that one; with the number of the region where the op has several. Empty
        for the nodes of the program.
    """
    for node in graph.nodes:
        yield node, around
        for region, place in regions_placed(node, around):
            yield from walk_places(region, place)


def regions_placed(node: Node, around: str) -> Iterator[tuple[Graph, str]]:
    """Yields the regions of a node with what stands around their nodes; see `walk_places`."""
    name = placed_name(node.outputs[0], around) if node.outputs else f"{around}{node.op.name}"
    # What quantize makes of %loop is %loop.q where floats leave it; what is inside is in %loop.
    name = name.removesuffix(".q")
    for index, region in enumerate(node.regions):
        yield region, f"{name}/" + (f"{index}/" if len(node.regions) > 1 else "")


def placed_name(value: Value, around: str) -> str:
    """Returns the name of a value with what stands around it: `loop/sum`, `branch/0/sum`.

    A name that begins with that of the op around, as frontends give it, tells the place already.

    Args:
        value: The value.
        around: What `walk_places` gives for its node.
    """
    ops = [part for part in around.split("/") if not part.isdigit()][:-1]
    told = bool(ops) and value.name.startswith(f"{ops[-1]}.")
    return value.name if told else f"{around}{value.name}"
