"""What programs that are gone leave behind: no workspace."""

import gc
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import qir
from qir.backends.cpu import call
from qir.backends.cpu.target import host_target
from tests.layout import ROOT

pytestmark = pytest.mark.skipif(host_target() is None, reason="no kernels for this machine")

TEXT = """
graph @two_steps(%x: i8[ROWS,2048,4]{scale=0.5}) {
  %r = relu(%x) : i8[ROWS,2048,4]{scale=0.5}
  %y = argmax(%r) {axis = 2} : i32[ROWS,2048]
  return %y
}
"""


def compiled(rows):
    return qir.compile(qir.parse(TEXT.replace("ROWS", str(rows))), kernels=True)


@pytest.fixture
def slots(monkeypatch):
    """The words that are made for slots."""
    made = []
    new_words = call.new_words

    def noted(count):
        made.append(new_words(count))
        return made[-1]

    monkeypatch.setattr(call, "new_words", noted)
    return made


def test_the_workspace_goes_with_the_program(slots):
    program = compiled(8)
    x = np.zeros((8, 2048, 4), np.int8)
    program(x)[0].block_until_ready()
    (slot,) = slots
    assert slot[0] != 0
    del program
    gc.collect()
    assert slot[0] == 0


def test_an_executable_that_outlives_the_program_leaves_nothing(slots):
    program = compiled(512)
    x = np.random.default_rng(0).integers(-128, 128, (512, 2048, 4), np.int8)
    wanted = np.asarray(program(x)[0])
    executable, parameters = program.lower().compile(), program.parameters
    reference = weakref.ref(program)

    def work():
        return [np.array_equal(executable(parameters, x)[0], wanted) for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work) for _ in range(4)]
        # The slots are closed while calls hold what they took from them.
        del program
        gc.collect()
        assert reference() is None
        assert all(all(each.result()) for each in running)
    assert [slot[0] for slot in slots] == [0] * len(slots)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_stays_bounded():
    script = """
import gc
import numpy as np
from tests.backends.cpu.test_memory import compiled

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def grow(count):
    before = resident()
    for _ in range(count):
        compiled(512)(np.zeros((512, 2048, 4), np.int8))[0].block_until_ready()
        gc.collect()
    return resident() - before

print(min(grow(10) for _ in range(4)))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # Every byte of an arena of 4 MiB is written: kept for each program, they would be 40 MiB in
    # each round. Pools of malloc and XLA fill in some rounds, not in all.
    assert int(done.stdout) < 10 * 512 * 2048 * 4 / 2
