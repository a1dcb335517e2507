"""The textual form: a program prints, parses back to an equal one, and runs."""

from qir.ir import Graph
from qir.text.parser import build, parse
from qir.text.printer import Program, to_program, to_text
from qir.text.syntax import parse_syntax

Graph.printer = to_text

__all__ = ["Program", "build", "parse", "parse_syntax", "to_program", "to_text"]
