"""Passes of several ops: wide sums, codes of 16 bits, parts of rows, rows shorter than a vector."""

import jax.numpy as jnp
import numpy as np
import pytest

import qir

pytest.importorskip("llvmlite")

from qir.backends.cpu.target import host_target
from qir.ir import Graph
from qir.ir.signature import Sizes
from qir.observe.batches import extreme_inputs, random_inputs
from qir.types import Array
from tests.backends.cpu import harness

pytestmark = pytest.mark.skipif(host_target() is None, reason="no kernels for this machine")


def gates(rows: str, width: int) -> Graph:
    """Returns what stands behind the products of an LSTM with two gates."""
    wide, both = f"[{rows},{width}]", f"[{rows},{2 * width}]"
    code = "{scale=0.000177, bounds=[-131071, 131071]}"
    columns = np.linspace(0.2, 1.1, 2 * width).astype(np.float32) * np.float32(1e-4)
    tables: dict[str, Array] = {
        "short": np.random.default_rng(0).integers(-128, 128, 256).astype(np.int8),
        "long": np.random.default_rng(1).integers(-128, 128, 65536).astype(np.int8),
        "twelve": np.random.default_rng(2).integers(-32768, 32768, 4096).astype(np.int16),
        "columns": columns.reshape(1, -1),
    }
    return qir.parse(
        f"""qir 2
        graph @gates(
          %x: i32{both}{{scale=@columns, axis=1, bounds=[-900000, 900000]}},
          %y: i32{both}{{scale=0.0003, bounds=[-100000, 100000]}},
          %c: i16{wide}{{scale=0.0002, zp=-589}}
        ) {{
          %xq = requantize(%x) : i32{both}{code}
          %yq = requantize(%y) : i32{both}{code}
          %sum = add(%xq, %yq) : i32{both}{code}
          %f, %g = split(%sum) {{axis = 1, sizes = [{width}, {width}]}} : i32{wide}{code},
            i32{wide}{code}
          %fq = requantize(%f) : i8{wide}{{scale=0.05, zp=-3}}
          %short = const : i8[256]{{scale=0.01, zp=-128}}
          %fs = lookup(%fq, %short) : i8{wide}{{scale=0.01, zp=-128}}
          %gq = requantize(%g) : i16{wide}{{scale=0.004, bounds=[-2048, 2047]}}
          %twelve = const : i16[4096]{{scale=0.0003}}
          %gs = lookup(%gq, %twelve) : i16{wide}{{scale=0.0003}}
          %fc = mul(%fs, %c) : i32{wide}{{scale=%fs*%c}}
          %fcq = requantize(%fc) : i32{wide}{code}
          %gw = requantize(%gs) : i32{wide}{code}
          %next = sub(%fcq, %gw) : i32{wide}{code}
          %c1 = requantize(%next) : i16{wide}{{scale=0.0002, zp=-589}}
          %long = const : i8[65536]{{scale=0.01}}
          %t = lookup(%c1, %long) : i8{wide}{{scale=0.01}}
          %r = dequantize(%t) : f32{wide}
          %q = quantize(%r) : i16{wide}{{scale=0.0001}}
          %m = add(%q, %c1) : i16{wide}{{scale=0.0003, zp=7}}
          return %c1, %m, %r
        }}""",
        tables,
    )


@pytest.mark.parametrize(("rows", "width"), [("B", 40), ("3", 5), ("1", 32), ("2", 67)])
def test_a_pass_gives_the_integers_of_the_reference(rows, width):
    graph = gates(rows, width)
    placement = harness.planned(graph, Sizes({"B": 3}))
    assert [step.kernel.name for step in placement.plan.steps] == ["Pointwise"]
    for inputs in (random_inputs(graph, 3, 3), *extreme_inputs(graph)):
        harness.check(graph, *inputs)


def test_what_is_read_between_two_passes_is_written():
    graph = qir.parse(
        """qir 2
        graph @g(%x: i16[4,40]{scale=0.01}) {
          %a = requantize(%x) : i8[4,40]{scale=0.3}
          %k = const 1 : i8[40,40]{scale=0.01}
          %d = dot(%a, %k) : i32[4,40]{scale=%a*%k}
          %e = requantize(%d) : i16[4,40]{scale=0.01}
          %z = add(%e, %x) : i16[4,40]{scale=0.02}
          return %z, %a
        }"""
    )
    plan = harness.planned(graph, Sizes({})).plan
    assert [step.kernel.name for step in plan.steps] == ["Pointwise", "Dense", "Pointwise"]
    harness.check(graph, *random_inputs(graph, 0))


@pytest.mark.parametrize("pipeline", ["w4a8", "log4"])
def test_sums_of_weights_of_any_code_are_rounded_within_their_bounds(pipeline):
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (128, 64)).astype(np.float32)

    def gated(x):
        return jnp.tanh(x @ weights[:, :32]) * x[:, :32] + x @ weights[:, 32:]

    x = rng.normal(0, 1, (4, 128)).astype(np.float32)
    program = qir.quantize(qir.from_jax(gated, x), [x], pipeline, accuracy_check=False)
    expected = qir.evaluate(program, x)
    assert np.array_equal(qir.compile(program, kernels=True)(x)[0], expected[0])
