"""From LLVM IR to machine code in this process: object code, linked once, kept for good."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import binding as llvm
from llvmlite import ir

from qir.backends.xla.cpu.target import Target

_ENGINES: list[llvm.ExecutionEngine] = []
"""What owns the machine code; XLA and running programs hold bare addresses of it."""


def _machine(target: Target) -> llvm.TargetMachine:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    found = llvm.Target.from_triple(target.triple)
    machine: llvm.TargetMachine = found.create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, reloc="pic"
    )
    return machine


def new_module(name: str, target: Target) -> ir.Module:
    """Returns an empty module for a target."""
    module = ir.Module(name, context=ir.Context())
    module.triple = target.triple
    return module


def assemble(module: ir.Module, target: Target) -> bytes:
    """Returns the object code of a module."""
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    code: bytes = _machine(target).emit_object(parsed)
    return code


def disassemble(module: ir.Module, target: Target) -> str:
    """Returns the assembly text of a module."""
    text: str = _machine(target).emit_assembly(llvm.parse_assembly(str(module)))
    return text


def load(code: bytes, target: Target, names: list[str]) -> dict[str, int]:
    """Links object code into the process, and returns the addresses of functions.

    Args:
        code: Object code for this machine.
        target: The target that it was made for.
        names: The functions.
    """
    empty = llvm.parse_assembly("")
    engine = llvm.create_mcjit_compiler(empty, _machine(target))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _ENGINES.append(engine)
    return {name: engine.get_function_address(name) for name in names}


def build(name: str, target: Target, write: Callable[[ir.Module], None]) -> bytes:
    """Writes a module and returns its object code."""
    module = new_module(name, target)
    write(module)
    return assemble(module, target)
