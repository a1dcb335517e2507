"""What XLA made of a program: the matrix products by kind, and what runs as a naive loop."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
LAYOUT = re.compile(r"\{[^{}]*\}")
CALLED = re.compile(r"kind=(\w+).*?calls=%([\w.\-]+)")
ESTIMATE = re.compile(r'"estimated_cycles":"(\d+)"')
BIG_GATHER = 1024
"""Places from which on a gather of single entries is slow on TPU."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of optimized HLO.

    Args:
        opcode: Its operation.
        type: Element type and shape of its result, as in `s32[8,16]`; a tuple stands in brackets.
        operands: Opcodes and types of the operands that stand in the same computation.
        root: Whether its result is that of its computation.
        fusion: Kind of the fusion that it is part of, with that of the code generator; else empty.
        source: The jax operation that it comes from, with its scopes.
        text: The text behind its opcode.
    """

    opcode: str
    type: str
    operands: tuple[tuple[str, str], ...]
    root: bool
    fusion: str
    source: str
    text: str

    @property
    def element(self) -> str:
        """Element type of the result, or of the first of several."""
        return self.type.lstrip("(").partition("[")[0]

    @property
    def size(self) -> int:
        """Number of elements of the result."""
        dimensions = self.type.partition("[")[2].rstrip("]")
        return prod(map(int, dimensions.split(","))) if dimensions else 1

    @property
    def of_dot(self) -> bool:
        """Whether it comes from a matrix product."""
        return self.source.endswith("dot_general")

    def __str__(self) -> str:
        operands = ", ".join(type for _, type in self.operands)
        return f"{self.opcode} of {operands} to {self.type} from {self.source or 'no source'}"


@dataclass
class Findings:
    """What stands in an executable.

    Args:
        products: Number of integer matrix products by kind.
        problems: What would be slow or inexact, one line each.
        cycles: The compiler's own estimate of cycles, where it writes one; not a measurement.
    """

    products: Counter[str] = field(default_factory=Counter[str])
    problems: list[str] = field(default_factory=list[str])
    cycles: int = 0


def instructions(text: str) -> Iterator[Instruction]:
    """Yields the instructions of a module in the text form of XLA's compilers."""
    lines: dict[str, list[tuple[bool, str, str, str, str]]] = {}
    current: list[tuple[bool, str, str, str, str]] = []
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            current = lines.setdefault(match[1], [])
        elif match := INSTRUCTION.match(line):
            root, name, type, opcode, rest = match.groups()
            current.append((root is not None, name, LAYOUT.sub("", type), opcode, rest))
    fusions: dict[str, str] = {}
    for body in lines.values():
        for *_, opcode, rest in body:
            if opcode == "fusion" and (match := CALLED.search(rest)):
                generator = _found(r'"kind":"(\w+)"', rest)
                fusions[match[2]] = f"{match[1]} {generator}".rstrip()
    for computation, body in lines.items():
        known = {name: (opcode, type) for _, name, type, opcode, _ in body}
        for root, _, type, opcode, rest in body:
            names = re.findall(r"%([\w.\-]+)", rest.partition(")")[0])
            operands = tuple(known[name] for name in names if name in known)
            source = _found(r'op_name="([^"]*)"', rest)
            fusion = fusions.get(computation, "")
            yield Instruction(opcode, type, operands, root, fusion, source, rest)


def examine(text: str, platform: str) -> Findings:
    """Finds the integer matrix products of an executable and what is wrong with it.

    Args:
        text: Optimized HLO.
        platform: `cuda` or `tpu`.
    """
    findings = Findings(cycles=sum(map(int, ESTIMATE.findall(text))))
    for instruction in instructions(text):
        kind, problem = _classified(instruction, platform)
        if kind:
            findings.products[kind] += 1
        if problem:
            findings.problems.append(f"{problem}: {instruction}")
    return findings


def _classified(instruction: Instruction, platform: str) -> tuple[str, str]:
    """Returns the kind of a matrix product and the problem with an instruction, or empty texts."""
    integer = instruction.element in ("s32", "u32", "s8", "u8")
    match instruction.opcode:
        case "while":
            return "", "a loop"
        case "gather" if platform == "tpu" and instruction.size >= BIG_GATHER:
            return "", "a gather of single entries"
        case "reduce" if _sums_products(instruction):
            return "vector", ""
        case "multiply" if integer and instruction.root and instruction.of_dot:
            return "stored", "the terms of a product stand in memory"
        case "custom-call" if "cublas" in instruction.text and integer:
            return "cublas", ""
        case "custom-call" if "cudnn$conv" in instruction.text:
            return "", "a convolution by cuDNN, which rounds in float32"
        case "dot" | "convolution" if integer:
            return _product(instruction, platform)
        case _:
            return "", ""


def _product(instruction: Instruction, platform: str) -> tuple[str, str]:
    if platform == "cuda":
        if instruction.opcode == "dot" and re.match("kCustom .*triton.*gemm", instruction.fusion):
            return "triton", ""
        return "loop", "a naive loop"
    if instruction.opcode == "dot":
        return "loop", "a product that is no convolution"
    elements = {type.partition("[")[0] for _, type in instruction.operands}
    if not elements <= {"s8", "pred"}:
        return "wide", "a product of numbers wider than signed bytes"
    return "convolution", ""


def _sums_products(instruction: Instruction) -> bool:
    """Whether this is the product of a matrix and a vector, which XLA writes as a reduction."""
    multiplied = any(opcode == "multiply" for opcode, _ in instruction.operands)
    return multiplied and instruction.of_dot


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""
