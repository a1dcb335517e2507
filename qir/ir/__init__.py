"""The graph: values, nodes and the four edits on which every pass is built."""

from qir.ir.accuracy import Accuracy, OutputAccuracy, OwnError
from qir.ir.builder import Builder, node_types
from qir.ir.chosen import OF_ALL, ChosenOption
from qir.ir.cloner import clone
from qir.ir.graph import Graph, expect_graph
from qir.ir.node import Node
from qir.ir.passages import Passing, passing
from qir.ir.reachability import reachable
from qir.ir.value import Value

__all__ = [
    "OF_ALL",
    "Accuracy",
    "Builder",
    "ChosenOption",
    "Graph",
    "Node",
    "OutputAccuracy",
    "OwnError",
    "Passing",
    "Value",
    "clone",
    "expect_graph",
    "node_types",
    "passing",
    "reachable",
]
