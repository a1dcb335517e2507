"""The interpreter exits as it should, whatever programs are doing.

Daemon threads are left out: one that computes while the interpreter exits aborts it in jax alone.
"""

import subprocess
import sys

import pytest

pytest.importorskip("llvmlite")

from qir.backends.cpu.target import host_target
from tests.layout import ROOT

pytestmark = pytest.mark.skipif(host_target() is None, reason="no kernels for this machine")

BEGIN = """
import sys
import threading
import numpy as np
import qir

graph = qir.parse('''
graph @wide(%x: i8[256,4096]{scale=0.5}) {
  %k = const : i8[4096,256]{scale=0.01}
  %a = dot(%x, %k) : i32[256,256]{scale=%x*%k}
  %y = requantize(%a) : i8[256,256]{scale=20}
  return %y
}
''', {"k": np.ones((4096, 256), np.int8)})
compiled = qir.compile(graph, kernels=True)
x = np.ones((256, 4096), np.int8)
compiled(x)[0].block_until_ready()
started = threading.Event()

def work(calls):
    for _ in range(calls):
        compiled(x)[0].block_until_ready()
        started.set()
"""
EPILOGUES = {
    "a call is on its way": "compiled(x)",
    "many calls are": "results = [compiled(x) for _ in range(20)]",
    "a thread runs on": """
threading.Thread(target=work, args=(40,)).start()
started.wait()
""",
    "the program is deleted": """
result = compiled(x)
del compiled, graph
""",
    "sys.exit in between": """
threading.Thread(target=work, args=(40,)).start()
started.wait()
sys.exit(0)
""",
}


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_exit(epilogue, times):
    command = [sys.executable, "-c", BEGIN + EPILOGUES[epilogue]]
    for _ in range(times):
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, "")
