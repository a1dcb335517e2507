"""Kernels read nothing that was never written: each family runs in valgrind's memcheck.

A program in C calls them, with an allocation for each tensor, and writes out the results. Scratch
holds other noise for each task: sums take in what lies behind a row there, times weights of zero.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

pytest.importorskip("llvmlite")

from qir.backends.cpu.kernel import KernelCode, SharedFunction
from qir.backends.cpu.objects import object_codes
from qir.backends.cpu.target import TARGETS, host_targets
from qir.backends.reference.interpreter import run
from qir.ir import Graph
from tests.backends.cpu.guarded import laid_out
from tests.backends.cpu.programs import EPILOGUES, drawn, linear_programs

HERE = {target.name: target for target in host_targets()}
# Of x86, valgrind knows little beyond Haswell: neither AVX512 nor VNNI nor GFNI.
TARGET = TARGETS["avx2"] if "avx2" in HERE else next(iter(HERE.values()), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(TARGET is None, reason="no kernels for this machine"),
    *(
        pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program}")
        for program in ("valgrind", "cc")
    ),
]

KNOWN, UNKNOWN, RESULT = range(3)
CALLER = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef void kernel(int64_t *, char **, int64_t, char *);
%s
static kernel *const kernels[] = {%s};
static void take(void *place, int64_t size) { if (fread(place, 1, size, stdin) != size) exit(2); }
static int64_t word(void) { int64_t found; take(&found, 8); return found; }
int main(void) {
    for (int64_t programs = word(); programs--;) {
        int64_t blocks = word(), kinds[blocks], sizes[blocks];
        char *bases[blocks];
        for (int64_t i = 0; i < blocks; i++) {
            kinds[i] = word();
            sizes[i] = word();
            bases[i] = aligned_alloc(64, sizes[i]);
            if (kinds[i] == 0) take(bases[i], sizes[i]);
        }
        for (int64_t steps = word(); steps--;) {
            kernel *code = kernels[word()];
            int64_t count = word(), *arguments = malloc(8 * count), tasks, size;
            take(arguments, 8 * count);
            tasks = word();
            size = word();
            for (int64_t task = 0; task < tasks; task++) {
                char *scratch = aligned_alloc(64, size);
                memset(scratch, 0xA5 + task, size);
                code(arguments, bases, task, scratch);
                free(scratch);
            }
            free(arguments);
        }
        for (int64_t i = 0; i < blocks; i++) {
            if (kinds[i] == 2 && write(1, bases[i], sizes[i]) != sizes[i]) return 3;
            free(bases[i]);
        }
    }
}
"""


def check(programs: Sequence[tuple[Graph, Sequence[ArrayLike]]], folder: Path) -> None:
    assert TARGET is not None
    numbers: dict[str, int] = {}
    functions: dict[str, KernelCode | SharedFunction] = {}
    sent, wanted = [np.int64(len(programs)).tobytes()], []

    def send(*words: int) -> None:
        sent.append(np.array(words, np.int64).tobytes())

    for graph, inputs in programs:
        blocks, steps, _ = laid_out(graph, inputs, TARGET)
        send(len(blocks))
        for block in blocks:
            kind = KNOWN if block.content is not None else RESULT if block.result else UNKNOWN
            send(kind, block.size)
            if block.content is not None:
                sent.append(np.ascontiguousarray(block.content).tobytes())
        send(len(steps))
        for step in steps:
            symbol = step.kernel.symbol
            functions |= {each.symbol: each for each in (step.kernel, *step.kernel.shared)}
            send(numbers.setdefault(symbol, len(numbers)), len(step.arguments), *step.arguments)
            send(step.tasks, step.scratch)
        wanted += [np.ascontiguousarray(array).tobytes() for array in run(graph, *inputs)]

    names = [f"kernel{number}" for number in range(len(numbers))]
    declared = [
        f'extern kernel {name} __asm__("{symbol}");'
        for name, symbol in zip(names, numbers, strict=True)
    ]
    (folder / "caller.c").write_text(CALLER % ("\n".join(declared), ", ".join(names)))
    writers = {name: partial(each.define, target=TARGET) for name, each in functions.items()}
    for number, code in enumerate(object_codes(writers, TARGET).values()):
        (folder / f"{number}.o").write_bytes(code)
    objects = [path.name for path in folder.glob("*.o")]
    subprocess.run(
        ["cc", "-O1", "-g", "-o", "caller", "caller.c", *objects], cwd=folder, check=True
    )
    done = subprocess.run(
        ["valgrind", "-q", "--error-exitcode=9", "--track-origins=yes", "./caller"],
        cwd=folder,
        input=b"".join(sent),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[:5000]
    assert done.stdout == b"".join(wanted)


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_sums_of_products(epilogue: str, tmp_path: Path) -> None:
    check([case.build() for case in linear_programs(epilogue)], tmp_path)


def test_every_op(tmp_path: Path) -> None:
    assert TARGET is not None
    check([(case.graph, case.inputs) for case in drawn(TARGET, 160)], tmp_path)
