"""The runtime: one XLA handler that runs the steps of a program on XLA's own threads.

A call of a program is one call of the handler. Its first operand is the program's table (see
`table`), so that nothing of a program is compiled into XLA. The handler asks XLA's thread pool for
helpers, which stay for the whole program: each thread takes the next task of a step from a counter
and waits at the end of the step until all of its tasks are done. The caller works too and never
waits for a helper to start, so that a pool of any size, busy or not, can't block it.

Memory that outlives a task (counters, temporary tensors, scratch of each thread) is one workspace.
It is taken from a slot and put back, so that calls one after the other use the same pages; a second
call at the same time allocates its own. A slot is two words: the workspace, and whether the program
is gone; then what a call puts back, perhaps one of an executable that outlived the program, is
freed at once. A workspace counts who may still touch it: a helper that starts after all work is
done finds the gate closed and only lets go.

A table may name words that take times: one before helpers are asked for, then the latest end of a
task of each step. Only threads that the caller waits for write them.

The layout of what XLA passes is that of `xla/ffi/api/c_api.h`, version 0.1 and later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from qir.backends.cpu.emitter import I32, I64, POINTER, VOID, LlvmEmitter, LlvmValue, constant

HANDLER = "qir_cpu_handler"
CLOSE = "qir_cpu_close"

# Words of a table.
STEPS, WORKSPACE_BYTES, ARENA, SCRATCH, SCRATCH_BYTES, THREADS, SLOT, CLOCK, BUFFERS = range(9)
PROCESS = 9
TABLE_WORDS = 16
# Words of a step in a table.
CODE, ARGUMENTS, TASKS = range(3)
STEP_WORDS = 4
# Bytes of a workspace.
_REFERENCES, _TABLE, _JOINED, _SLOT, _GATE = 0, 8, 16, 24, 64
_CLOSED_SLOT = 8
"""Byte of a slot."""
BASES = 128
COUNTER_BYTES = 128
"""Of each step: the next task, and 64 bytes further how many are done."""

_CLOSED = 1 << 32
_SPINS = 4096
"""Rounds of waiting after which a thread lets others run."""

# Offsets in XLA's structures.
_EXTENSION, _API, _CONTEXT, _STAGE = 8, 16, 24, 32
_OPERANDS, _OPERAND_LIST, _RESULTS, _RESULT_LIST = 56, 72, 96, 112
_BUFFER_DATA = 24
_CREATE_ERROR, _DESTROY_ERROR, _SCHEDULE, _THREAD_COUNT = 48, 64, 136, 144
_EXECUTE = 3
_RESOURCE_EXHAUSTED = 8

KERNEL_TYPE = ir.FunctionType(VOID, [POINTER, POINTER, I64, POINTER])
"""Of a kernel: its arguments, the buffers, the number of the task, scratch of the thread."""


def write_runtime(module: ir.Module, triple: str) -> None:
    """Writes the handler and what it calls into a module."""
    work = _write_work(module, triple)
    release = _write_release(module)
    helper = _write_helper(module, work, release)
    _write_handler(module, work, release, helper, triple)


def _word(e: LlvmEmitter, pointer: LlvmValue, index: int, type: Any = I64) -> LlvmValue:
    return e.load(type, pointer, 8 * index, align=8)


def _atomic(
    e: LlvmEmitter, operation: str, pointer: LlvmValue, offset: int, value: int
) -> LlvmValue:
    return e.build.atomic_rmw(operation, e.at(pointer, offset), e.number(value), "acq_rel")


def _function(module: ir.Module, name: str, types: list[Any]) -> LlvmEmitter:
    function = ir.Function(module, ir.FunctionType(VOID, types), name)
    function.linkage = "internal"
    return LlvmEmitter(function)


def read_counter(e: LlvmEmitter) -> LlvmValue:
    """Reads a counter that all processors share and that grows at a constant rate."""
    return e.intrinsic("llvm.readcyclecounter", I64)


def _wait(
    e: LlvmEmitter, triple: str, pointer: LlvmValue, offset: int, predicate: str, value: LlvmValue
) -> None:
    """Waits until an atomic word compares as wanted, and lets others run when it takes long."""
    build = e.build
    head = e.function.append_basic_block("wait")
    again = e.function.append_basic_block("again")
    tired = e.function.append_basic_block("tired")
    done = e.function.append_basic_block("met")
    before = build.block
    build.branch(head)
    build.position_at_end(head)
    spins = build.phi(I64)
    spins.add_incoming(e.number(0), before)
    found = build.load_atomic(e.at(pointer, offset), "acquire", 8, typ=I64)
    build.cbranch(build.icmp_signed(predicate, found, value), done, again)
    build.position_at_end(again)
    if triple.startswith("x86_64"):
        e.intrinsic("llvm.x86.sse2.pause", VOID)
    more = build.add(spins, e.number(1))
    spins.add_incoming(more, again)
    build.cbranch(build.icmp_signed("<", more, e.number(_SPINS)), head, tired)
    build.position_at_end(tired)
    e.intrinsic("sched_yield", I32)
    spins.add_incoming(e.number(0), tired)
    build.branch(head)
    build.position_at_end(done)


def _write_work(module: ir.Module, triple: str) -> ir.Function:
    """Writes `work(workspace, thread)`: takes part in every step of the program."""
    e = _function(module, "qir_work", [POINTER, I64])
    build = e.build
    workspace, thread = e.arguments
    table = e.load(POINTER, workspace, _TABLE, align=8)
    steps = _word(e, table, STEPS)
    counters = _counters(e, workspace, table)
    scratch = e.at(workspace, _word(e, table, SCRATCH))
    scratch = e.at(scratch, build.mul(thread, _word(e, table, SCRATCH_BYTES)))
    clock = _word(e, table, CLOCK)
    timed = build.icmp_signed("!=", clock, e.number(0))
    with e.loop(steps) as loop:
        step = e.at(table, build.mul(loop.index, e.number(8 * STEP_WORDS)))
        step = e.at(step, 8 * TABLE_WORDS)
        code = _word(e, step, CODE, KERNEL_TYPE.as_pointer())
        arguments = e.at(table, _word(e, step, ARGUMENTS))
        tasks = _word(e, step, TASKS)
        counter = e.at(counters, build.mul(loop.index, e.number(COUNTER_BYTES)))
        head = e.function.append_basic_block("take")
        body = e.function.append_basic_block("run")
        done = e.function.append_basic_block("rest")
        build.branch(head)
        build.position_at_end(head)
        task = _atomic(e, "add", counter, 0, 1)
        build.cbranch(build.icmp_signed("<", task, tasks), body, done)
        build.position_at_end(body)
        build.call(code, [arguments, e.at(workspace, BASES), task, scratch])
        with e.when(timed):
            # Before the task counts as done: no step ends before an earlier one, and the caller,
            # which waits for all tasks, finds the times complete.
            place = e.at(build.inttoptr(clock, POINTER), build.mul(loop.index, e.number(8)))
            build.atomic_rmw("max", e.at(place, 8), read_counter(e), "monotonic")
        _atomic(e, "add", counter, 64, 1)
        build.branch(head)
        build.position_at_end(done)
        _wait(e, triple, counter, 64, ">=", tasks)
    build.ret_void()
    return e.function


def write_close(module: ir.Module) -> None:
    """Writes `close(slot)`: frees the workspace in a slot, and has later ones freed too."""
    e = LlvmEmitter(ir.Function(module, ir.FunctionType(VOID, [POINTER]), CLOSE))
    (slot,) = e.arguments
    e.build.atomic_rmw("xchg", e.at(slot, _CLOSED_SLOT), e.number(1), "acq_rel")
    _replace(e, slot, e.number(0))
    e.build.ret_void()


def _replace(e: LlvmEmitter, slot: LlvmValue, address: LlvmValue) -> None:
    """Puts a workspace, or none, into a slot, and frees the one that is there."""
    other = e.build.atomic_rmw("xchg", slot, address, "acq_rel")
    with e.when(e.build.icmp_signed("!=", other, e.number(0))):
        e.intrinsic("free", VOID, e.build.inttoptr(other, POINTER))


def _write_release(module: ir.Module) -> ir.Function:
    """Writes `release(workspace)`: the last to let go puts it back into the slot."""
    e = _function(module, "qir_release", [POINTER])
    build = e.build
    (workspace,) = e.arguments
    left = _atomic(e, "sub", workspace, _REFERENCES, 1)
    with e.when(build.icmp_signed("==", left, e.number(1))):
        slot = e.load(POINTER, workspace, _SLOT, align=8)
        _replace(e, slot, build.ptrtoint(workspace, I64))
        # Whoever closes the slot empties it after that: one of the two finds the workspace.
        closed = build.load_atomic(e.at(slot, _CLOSED_SLOT), "acquire", 8, typ=I64)
        with e.when(build.icmp_signed("!=", closed, e.number(0))):
            _replace(e, slot, e.number(0))
    build.ret_void()
    return e.function


def _write_helper(module: ir.Module, work: ir.Function, release: ir.Function) -> ir.Function:
    """Writes `helper(workspace)`: what runs on a thread of XLA's pool."""
    e = _function(module, "qir_helper", [POINTER])
    build = e.build
    (workspace,) = e.arguments
    before = _atomic(e, "add", workspace, _GATE, 1)
    with e.when(build.icmp_signed("<", before, e.number(_CLOSED))):
        build.call(work, [workspace, _atomic(e, "add", workspace, _JOINED, 1)])
    _atomic(e, "sub", workspace, _GATE, 1)
    build.call(release, [workspace])
    build.ret_void()
    return e.function


def _write_handler(
    module: ir.Module, work: ir.Function, release: ir.Function, helper: ir.Function, triple: str
) -> None:
    """Writes the function that XLA calls."""
    function = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), HANDLER)
    e = LlvmEmitter(function)
    build = e.build
    (frame,) = e.arguments
    none = constant(POINTER, None)
    _answer_without_work(e, frame)
    api = _word(e, frame, _API // 8, POINTER)
    context = _word(e, frame, _CONTEXT // 8, POINTER)
    table, bases = _tensors(e, frame)
    slot = _word(e, table, SLOT, POINTER)
    workspace = _workspace(e, table, slot)
    with e.when(build.icmp_unsigned("==", workspace, none)):
        build.ret(_error(e, api, "qir: out of memory", _RESOURCE_EXHAUSTED))
    e.store(table, workspace, _TABLE, 8)
    e.store(slot, workspace, _SLOT, 8)
    e.store(e.number(1), workspace, _JOINED, 8)
    e.store(e.number(0), workspace, _GATE, 8)
    bases.store(e, workspace, table)
    _clear_counters(e, workspace, table)

    clock = _word(e, table, CLOCK)
    with e.when(build.icmp_signed("!=", clock, e.number(0))):
        e.store(read_counter(e), build.inttoptr(clock, POINTER), 0, 8)
    _ask_for_help(e, api, context, table, workspace, helper)
    build.call(work, [workspace, e.number(0)])
    _atomic(e, "or", workspace, _GATE, _CLOSED)
    _wait(e, triple, workspace, _GATE, "==", e.number(_CLOSED))
    build.call(release, [workspace])
    build.ret(none)


def _answer_without_work(e: LlvmEmitter, frame: LlvmValue) -> None:
    """Returns from the function where XLA asks for metadata, or for anything but to execute."""
    build, none = e.build, constant(POINTER, None)
    extension = e.load(POINTER, frame, _EXTENSION, align=8)
    with e.when(build.icmp_unsigned("!=", extension, none)):
        metadata = e.load(POINTER, extension, 24, align=8)
        e.store(e.number(0, I32), metadata, 24, 4)
        e.store(e.number(1, I32), metadata, 28, 4)
        e.store(e.number(0, I32), metadata, 32, 4)
        build.ret(none)
    stage = e.load(I32, frame, _STAGE, align=4)
    with e.when(build.icmp_signed("!=", stage, e.number(_EXECUTE, I32))):
        build.ret(none)


@dataclass(frozen=True)
class _Bases:
    """The tensors of a call, where XLA lists them.

    Attributes:
        operands: Pointer to the list of operands, of which the first is the table of steps.
        results: Pointer to the list of results.
        operand_count: Number of the operands.
        result_count: Number of the results.
    """

    operands: LlvmValue
    results: LlvmValue
    operand_count: LlvmValue
    result_count: LlvmValue

    def store(self, e: LlvmEmitter, workspace: LlvmValue, table: LlvmValue) -> None:
        """Stores where each buffer begins: operands, results and the arena."""
        build, bases = e.build, e.at(workspace, BASES)
        with e.loop(self.operand_count, start=1) as loop:
            buffer = e.load(POINTER, self.operands, build.mul(loop.index, e.number(8)), align=8)
            data = e.load(POINTER, buffer, _BUFFER_DATA, align=8)
            e.store(data, bases, build.mul(build.sub(loop.index, e.number(1)), e.number(8)), 8)
        before = build.sub(self.operand_count, e.number(1))
        after = e.at(bases, build.mul(before, e.number(8)))
        with e.loop(self.result_count) as loop:
            buffer = e.load(POINTER, self.results, build.mul(loop.index, e.number(8)), align=8)
            data = e.load(POINTER, buffer, _BUFFER_DATA, align=8)
            e.store(data, after, build.mul(loop.index, e.number(8)), 8)
        last = e.at(after, build.mul(self.result_count, e.number(8)))
        e.store(e.at(workspace, _word(e, table, ARENA)), last, 0, 8)


def _tensors(e: LlvmEmitter, frame: LlvmValue) -> tuple[LlvmValue, _Bases]:
    """Returns the table of steps, which is the first operand, and the tensors."""
    operands = e.load(POINTER, frame, _OPERAND_LIST, align=8)
    results = e.load(POINTER, frame, _RESULT_LIST, align=8)
    operand_count = e.load(I64, frame, _OPERANDS, align=8)
    result_count = e.load(I64, frame, _RESULTS, align=8)
    table = e.load(POINTER, _word(e, operands, 0, POINTER), _BUFFER_DATA, align=8)
    return table, _Bases(operands, results, operand_count, result_count)


def _workspace(e: LlvmEmitter, table: LlvmValue, slot: LlvmValue) -> LlvmValue:
    """Takes the workspace that an earlier call left, or memory for a new one; null for neither."""
    build = e.build
    found = build.atomic_rmw("xchg", slot, e.number(0), "acq_rel")
    place = e.reserve(8, 8)
    e.store(found, place, 0, 8)
    with e.when(build.icmp_signed("==", found, e.number(0))):
        size = _word(e, table, WORKSPACE_BYTES)
        fresh = e.intrinsic("aligned_alloc", POINTER, e.number(64), size)
        e.store(build.ptrtoint(fresh, I64), place, 0, 8)
    return e.load(POINTER, place, 0, 8)


def _ask_for_help(
    e: LlvmEmitter,
    api: LlvmValue,
    context: LlvmValue,
    table: LlvmValue,
    workspace: LlvmValue,
    helper: ir.Function,
) -> None:
    """Asks XLA's threads to help, as many as the table says and XLA has."""
    build, none = e.build, constant(POINTER, None)
    threads = e.reserve(8, 8)
    e.store(e.number(1), threads, 0, 8)
    most = _word(e, table, THREADS)
    call = e.reserve(40, 8)
    for offset, value in ((8, none), (16, context)):
        e.store(value, call, offset, 8)
    with e.when(build.icmp_signed(">", most, e.number(1))):
        e.store(e.number(32), call, 0, 8)
        e.store(threads, call, 24, 8)
        count = _word(e, api, _THREAD_COUNT // 8, ir.FunctionType(POINTER, [POINTER]).as_pointer())
        _forget(e, api, build.call(count, [call]))
    available = e.smallest(e.load(I64, threads, 0, 8), most)
    # The caller holds one reference; one more for each helper is taken before it is asked for.
    e.store(e.number(1), workspace, _REFERENCES, 8)
    e.store(e.number(40), call, 0, 8)
    e.store(e.untyped(helper), call, 24, 8)
    e.store(workspace, call, 32, 8)
    schedule = _word(e, api, _SCHEDULE // 8, ir.FunctionType(POINTER, [POINTER]).as_pointer())
    with e.loop(available, start=1):
        _atomic(e, "add", workspace, _REFERENCES, 1)
        refused = build.call(schedule, [call])
        with e.when(build.icmp_unsigned("!=", refused, none)):
            _forget(e, api, refused)
            _atomic(e, "sub", workspace, _REFERENCES, 1)


def _clear_counters(e: LlvmEmitter, workspace: LlvmValue, table: LlvmValue) -> None:
    counters = _counters(e, workspace, table)
    size = e.build.mul(_word(e, table, STEPS), e.number(COUNTER_BYTES))
    with e.loop(size, step=64) as loop:
        e.store(e.number(0), counters, loop.index, 8)


def _counters(e: LlvmEmitter, workspace: LlvmValue, table: LlvmValue) -> LlvmValue:
    """Returns where the counters stand: after the bases, in a cache line of their own."""
    size = e.build.mul(_word(e, table, BUFFERS), e.number(8))
    aligned = e.build.and_(e.build.add(size, e.number(BASES + 63)), e.number(-64))
    return e.at(workspace, aligned)


def _forget(e: LlvmEmitter, api: LlvmValue, error: LlvmValue) -> None:
    """Destroys an error of XLA, if there is one."""
    with e.when(e.build.icmp_unsigned("!=", error, constant(POINTER, None))):
        arguments = e.reserve(24, 8)
        e.store(e.number(24), arguments, 0, 8)
        e.store(constant(POINTER, None), arguments, 8, 8)
        e.store(error, arguments, 16, 8)
        destroy = _word(e, api, _DESTROY_ERROR // 8, ir.FunctionType(VOID, [POINTER]).as_pointer())
        e.build.call(destroy, [arguments])


def _error(e: LlvmEmitter, api: LlvmValue, message: str, code: int) -> LlvmValue:
    """Makes an error of XLA."""
    text = constant(
        ir.ArrayType(ir.IntType(8), len(message) + 1), bytearray(message.encode() + b"\0")
    )
    place = ir.GlobalVariable(e.module, text.type, f"message.{code}")
    place.global_constant, place.initializer, place.linkage = True, text, "internal"
    arguments = e.reserve(32, 8)
    e.store(e.number(32), arguments, 0, 8)
    e.store(constant(POINTER, None), arguments, 8, 8)
    e.store(e.untyped(place), arguments, 16, 8)
    e.store(e.number(code, I32), arguments, 24, 4)
    create = _word(e, api, _CREATE_ERROR // 8, ir.FunctionType(POINTER, [POINTER]).as_pointer())
    return e.build.call(create, [arguments])
