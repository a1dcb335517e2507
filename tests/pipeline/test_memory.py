"""The memory that quantizing takes, of models whose weights are most of it."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from qir.passes.shared.constants import rounded_product
from qir.types import DType, FrozenArray
from qir.types.arrays import ALIGNMENT

ROOT = Path(__file__).parents[2]

MOST = 2.5
"""Peak memory as a multiple of the float weights, which are part of it: the program keeps them, a
pass may make others of them, and XLA copies those that do not lie where it can read them."""

PROGRAM = """
import sys
import numpy as np
import qir
from qir.ops import Dot, Mul, Relu
from qir.types import DType, TensorType
from tests.benchmarks.quantization_cost import peak_memory

sizes, folded, check = map(eval, sys.argv[1:])
small = "graph @g(%x: f32[4,8]) { %k = const 0.5 : f32[8,8] %y = dot(%x, %k) : f32[4,8] return %y }"
qir.quantize(qir.parse(small), [np.eye(4, 8, dtype=np.float32)], accuracy_check=check)
start = peak_memory()  # what Python, jax and XLA take, which have compiled something
rng = np.random.default_rng(0)
graph = qir.Graph("mlp", [("x", TensorType((4, sizes[0]), DType.F32))])
b, weights = graph.at_end(), 0
(x,) = graph.inputs
for rows, columns in zip(sizes, sizes[1:]):
    kernel = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(rows**-0.5)
    weights += kernel.nbytes
    x = b.emit(Dot(), x, b.const(kernel, "kernel"))
    del kernel
    if folded:
        x = b.emit(Mul(), x, b.const(rng.uniform(0.5, 2, columns).astype(np.float32), "scale"))
    x = b.emit(Relu(), x)
graph.set_outputs([x])
data = [rng.standard_normal((4, sizes[0]), dtype=np.float32) for _ in range(2)]
assert weights > 400e6
built = peak_memory()
integer = qir.quantize(graph, data, accuracy_check=check)
floats = [v.array.nbytes for v in integer.values() if v.is_constant and v.type.is_float]
assert sum(floats) < 1e6
print(*(kib * 1024 / weights for kib in (built - start, peak_memory() - start)))
"""

DEEP, WIDE = [2048] * 26, [1024, 51_200, 1024]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak of a process")
@pytest.mark.parametrize(
    ("sizes", "folded", "check"),
    [
        (DEEP, False, False),
        (WIDE, False, False),
        (DEEP, True, False),
        (WIDE, True, False),
        (WIDE, False, True),
    ],
    ids=["deep", "wide", "folded", "wide and folded", "wide, with the accuracy check"],
)
def test_quantizing_takes_no_more_than_weights_times(sizes, folded, check):
    command = [sys.executable, "-c", PROGRAM, *map(str, (sizes, folded, check))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built, peak = map(float, done.stdout.split())
    print(f"{peak:.2f} times the weights, {built:.2f} before")
    assert built < 1.1
    assert peak <= MOST


@pytest.mark.parametrize("size", [1, 63, 4096])
def test_constants_that_passes_fold_lie_where_xla_reads_them(size):
    """XLA on CPU copies others: while a program is calibrated, all of its weights."""
    folded = rounded_product(np.ones((3, size), np.float32), np.full(size, 0.5), DType.F32)
    assert folded is not None
    array = FrozenArray.by_reference(folded).array
    assert array.ctypes.data % ALIGNMENT == 0
    assert np.array_equal(array, np.full((3, size), 0.5))
    assert jax.device_put(array).unsafe_buffer_pointer() == array.ctypes.data
