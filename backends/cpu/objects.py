"""Object code: of each function once for all processes, in the folder of the cache.

A file holds a digest of its code and then the code, so that half a file or a damaged one is no
code. Its name is a digest of all that the code depends on: another version of the generator, of
LLVM or of the processor makes another file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import llvmlite
from llvmlite import binding as llvm
from llvmlite import ir

from qir.backends.cpu.machine import assemble, new_module
from qir.backends.cpu.target import LlvmInstructionSet
from qir.bench.cache import cache_folder
from qir.errors import QirError
from qir.report.progress import watched
from qir.text.files import write_atomically

Writers: TypeAlias = Mapping[str, Callable[[ir.Module], None]]
"""What writes each function into a module, by the function's name."""

MOST_FILES = 1024
_DIGEST_BYTES = hashlib.sha256().digest_size


def object_codes(writers: Writers, target: LlvmInstructionSet) -> dict[str, bytes]:
    """Returns the object code of functions, from the cache where it is there.

    Args:
        writers: The functions.
        target: The instruction set.

    Returns:
        The code by name, in the same order.
    """
    folder = cache_folder() / "kernels"
    paths = {name: folder / f"{_digest(name, target)}.o" for name in writers}
    found = {name: code for name, path in paths.items() if (code := _read(path)) is not None}
    missing = {name: write for name, write in writers.items() if name not in found}
    made = _assembled(missing, target)
    for name, code in made.items():
        _write(paths[name], code)
    found |= made
    return {name: found[name] for name in writers}


def _assembled(writers: Writers, target: LlvmInstructionSet) -> dict[str, bytes]:
    """Writes functions in Python, and meanwhile has LLVM assemble those written before."""
    with ThreadPoolExecutor(1) as waiting:
        futures: dict[str, Future[bytes]] = {}
        for name, write in watched(writers.items(), "writing kernels"):
            module = new_module(name, target)
            write(module)
            futures[name] = waiting.submit(assemble, str(module), target)
        waited = watched(futures.items(), "assembling kernels")
        return {name: future.result() for name, future in waited}


@cache
def _generator() -> str:
    """Returns a digest of the source files that write the code."""
    folder = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("cpu/**/*.py"), *folder.glob("native/**/*.py")]):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _digest(name: str, target: LlvmInstructionSet) -> str:
    facts = {
        "function": name,
        "generator": _generator(),
        "instruction set": target.name,
        "triple": target.triple,
        "cpu": target.cpu,
        "features": target.features,
        "tile": [target.lanes, target.rows, target.vectors, target.group],
        "llvmlite": llvmlite.__version__,
        "llvm": list(llvm.llvm_version_info),
        "qir": version("qir-compiler"),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> bytes | None:
    """Returns the code in a file, or None where there is none, or another than was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Writes code into a file, where the folder can be written."""
    content = hashlib.sha256(code).digest() + code
    with suppress(OSError, QirError):
        # What lies here is executed: nobody else may write it.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically({path: lambda file: file.write(content)})
        _forget(path.parent)


def _forget(folder: Path) -> None:
    """Deletes the older half of the files, where there are many."""
    paths = list(folder.glob("*.o"))
    if len(paths) > MOST_FILES:
        paths.sort(key=lambda path: path.stat().st_mtime)
        for path in paths[: len(paths) // 2]:
            path.unlink(missing_ok=True)
