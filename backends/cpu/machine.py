"""From LLVM IR to machine code in this process: object code, linked and kept for good."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from llvmlite import binding as llvm
from llvmlite import ir
from llvmlite.binding import orcjit

from qir.backends.cpu.target import LlvmInstructionSet


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def _machine(target: LlvmInstructionSet) -> llvm.TargetMachine:
    _initialize()
    found = llvm.Target.from_triple(target.triple)
    machine: llvm.TargetMachine = found.create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, reloc="pic", codemodel="small"
    )
    return machine


def new_module(name: str, target: LlvmInstructionSet) -> ir.Module:
    """Returns an empty module for a target."""
    module = ir.Module(name, context=ir.Context())
    module.triple = target.triple
    return module


def assemble(text: str, target: LlvmInstructionSet) -> bytes:
    """Returns the object code of a module, given as text."""
    parsed = llvm.parse_assembly(text)
    parsed.verify()
    code: bytes = _machine(target).emit_object(parsed)
    return code


def disassemble(module: ir.Module, target: LlvmInstructionSet) -> str:
    """Returns the assembly text of a module."""
    text: str = _machine(target).emit_assembly(llvm.parse_assembly(str(module)))
    return text


def link(codes: Mapping[str, bytes], target: LlvmInstructionSet) -> Mapping[str, int]:
    """Links object code into the process, and returns the addresses of its functions.

    Args:
        codes: Object code for this machine, by the name of the function that is wanted of it; one
            may call another's, and those of the C library.
        target: The target that it was made for.
    """
    library = orcjit.JITLibraryBuilder().add_current_process()
    for name, code in codes.items():
        library.add_object_img(code).export_symbol(name)
    # JITLink, unlike the older linker, puts all sections near each other, as small code needs it.
    engine = orcjit.create_lljit_compiler(_machine(target), use_jit_link=True)
    loaded = library.link(engine, "kernels")
    found = {name: loaded[name] for name in codes}
    # XLA and threads that outlive the interpreter hold bare addresses: the code is never freed.
    loaded.detach()
    engine.detach()
    return found
