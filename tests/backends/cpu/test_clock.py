"""The clock of steps, what the machine does at most, and the profile of a program."""

import threading
import time

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import jax
import jax.numpy as jnp

from qir.backends.cpu import call, clock, machine, peak
from qir.backends.cpu.table import call_table
from qir.backends.cpu.target import TARGETS, host_target
from qir.backends.native.partition import Cluster
from qir.backends.xla.profile import profile
from qir.bench.profile import Ceilings
from qir.ir.signature import Sizes
from tests.backends.cpu import harness
from tests.backends.cpu.programs import GEOMETRIES
from tests.backends.cpu.test_targets import INSTRUCTIONS, loops
from tests.backends.native.test_plan import network

TARGET = host_target()
pytestmark = pytest.mark.skipif(TARGET is None, reason="no kernels for this machine")


def timed(graph, inputs, threads):
    """Returns a call of a program in kernels, and its clock."""
    assert TARGET is not None
    plan = harness.planned(graph, Sizes({}), threads).plan
    found = clock.StepClock(Cluster((), (), ()), plan, call.new_words(1 + len(plan.steps)))
    addresses = call.addresses([step.kernel for step in plan.steps], TARGET)
    table = jnp.asarray(call_table(plan, addresses, call.new_slot(), found.address))
    constants = jnp.asarray(plan.constants())
    results = [
        jax.ShapeDtypeStruct(value.type.shape, value.type.dtype.numpy) for value in graph.outputs
    ]
    program = jax.jit(lambda table, *rest: call.call(table, rest[0], rest[1:], results))
    operands = [jnp.asarray(array) for array in inputs]
    return lambda: jax.block_until_ready(program(table, constants, *operands)), found


@pytest.mark.parametrize("threads", [1, 4])
def test_the_times_of_steps_lie_within_the_call(threads):
    graph, inputs = GEOMETRIES[0].build()
    program, found = timed(graph, inputs, threads)
    program()
    read = clock.now()
    for _ in range(200):
        begin = read()
        program()
        end = read()
        stamps = np.array(found._words, np.int64)
        assert begin <= stamps[0]
        assert (np.diff(stamps) >= 0).all()
        assert stamps[-1] <= end


def test_calls_at_the_same_time_write_times_of_one_of_them():
    graph, inputs = GEOMETRIES[0].build()
    program, found = timed(graph, inputs, 4)
    program()
    begin = clock.now()()
    running = [threading.Thread(target=lambda: [program() for _ in range(100)]) for _ in range(3)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    stamps = np.array(found._words, np.int64)
    assert ((begin <= stamps) & (stamps <= clock.now()())).all()
    assert (found.seconds() >= 0).all()


def test_the_rate_of_the_counter():
    read, rate = clock.now(), clock.ticks_per_second()
    first, begin = read(), time.perf_counter()
    time.sleep(0.02)
    last, end = read(), time.perf_counter()
    # Each reading of both may be held up by as much as the system lets others run.
    assert (last - first) / rate == pytest.approx(end - begin, abs=0.01)


@pytest.mark.parametrize("name", TARGETS)
def test_the_loop_of_the_peak_does_all_its_sums_in_registers(name):
    target = TARGETS[name]
    text = machine.disassemble(peak.written("qir_multiply", target), target)
    (loop,) = (loop for loop in loops(text) if INSTRUCTIONS[name] in " ".join(loop))
    sums = [line for line in loop if INSTRUCTIONS[name] in line]
    assert len(sums) == target.rows * target.vectors
    assert not any("(%" in line or "[" in line for line in loop)


@pytest.mark.parametrize("name", TARGETS)
def test_the_loop_that_reads_compiles(name):
    target = TARGETS[name]
    text = machine.disassemble(peak.written("qir_read", target), target)
    assert any("xor" in line or "eor" in line for loop in loops(text) for line in loop)


def test_a_bound_of_reading_falls_with_the_size():
    # The second was disturbed.
    found = Ceilings("avx2", 1, 100.0, ((100, 9.0), (1000, 3.0), (10000, 5.0)))
    rates = {1: 9.0, 100: 9.0, 999: 9.0, 1000: 5.0, 10**6: 5.0}
    assert {size: found.bandwidth(size) for size in rates} == rates


def test_a_profile_has_every_node_and_sums_to_less_than_the_call():
    graph = network()
    images = np.zeros((3, 6, 6, 16), np.int8)
    found = profile(graph, [images], rounds=2, turn=0.001)
    assert found is not None
    names = [node.op.name for part in found.parts for node in part.nodes]
    assert names == ["conv", "requantize", "add", "dequantize", "quantize", "max_pool"]
    assert all(part.seconds > 0 and part.kernels for part in found.parts)
    assert sum(part.seconds for part in found.parts) < found.seconds
