"""The textual form: a program prints, parses back to an equal one, and runs."""

from qir.ir import Graph
from qir.text.parser import build, parse, parse_syntax
from qir.text.printer import Program, to_program, to_text

Graph.printer = to_text

__all__ = ["Program", "build", "parse", "parse_syntax", "to_program", "to_text"]
