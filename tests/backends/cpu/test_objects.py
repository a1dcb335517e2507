"""Object code on disk, and calls from several threads at once."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import get_args

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from llvmlite import ir

import qir
from qir.backends.cpu import objects
from qir.backends.cpu.emitter import I64, LlvmEmitter
from qir.backends.cpu.kernel import KERNEL_CODES
from qir.backends.cpu.target import host_target
from qir.backends.native.epilogue import Epilogue, Form, Residual
from qir.backends.native.kernels.dense import DenseKernel
from qir.backends.reference.interpreter import run
from tests.backends.native.test_plan import images, network

pytestmark = pytest.mark.skipif(host_target() is None, reason="no kernels for this machine")


def codes(count):
    target = host_target()
    assert target is not None
    return objects.object_codes(written(count), target)


def written(count):
    """A function that is written to return 7, and how often it was written."""

    def write(module):
        count.append(1)
        e = LlvmEmitter(ir.Function(module, ir.FunctionType(I64, []), "seven"))
        e.build.ret(e.number(7))

    return {"seven": write}


def test_code_of_another_epilogue_has_another_name():
    choices = product(get_args(Form), (False, True), get_args(Residual), (False, True))
    kernels = [DenseKernel(True, True, Epilogue(*fields)) for fields in choices]
    assert len({kernel.symbol for kernel in kernels}) == len(kernels)


def test_code_is_named_like_its_kernel():
    names = {kernel.__name__.removesuffix("Kernel"): cls for kernel, cls in KERNEL_CODES.items()}
    assert {name: cls.__name__ for name, cls in names.items()} == {
        name: f"{name}Code" for name in names
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QIR_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_code_is_made_once(folder):
    count: list[int] = []
    first = codes(count)
    assert codes(count) == first
    assert len(count) == 1


@pytest.mark.parametrize(
    "damage",
    [lambda code: code[:-1], lambda code: b"", lambda code: code[::-1]],
    ids=["cut", "empty", "turned"],
)
def test_damaged_code_is_made_anew(folder, damage):
    count: list[int] = []
    first = codes(count)
    (path,) = folder.rglob("*.o")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert codes(count) == first
    assert (len(count), path.read_bytes()) == (2, whole)


def test_programs_run_in_many_threads_at_once():
    programs = [qir.compile(network()) for _ in range(3)]
    batches = [images(count) for count in (1, 500)]
    wanted = [run(network(), batch)[0] for batch in batches]

    def call(number):
        found = programs[number % 3](batches[number % 2])[0]
        return np.array_equal(found, wanted[number % 2])

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(call, range(60)))
