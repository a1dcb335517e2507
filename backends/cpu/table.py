"""The table of a call: the steps of a plan as the runtime reads them (see `runtime`)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from qir.backends.cpu import runtime
from qir.backends.native.plan import SLACK, BufferView, Plan, Step, aligned
from qir.types import Array

_PROCESS = time.time_ns()
"""Makes the tables of this process unlike those of any other: jax's compilation cache on disk must
not find a program whose addresses are gone."""


def call_table(plan: Plan, addresses: Mapping[str, int], slot: int, clock: int = 0) -> Array:
    """Returns what the runtime reads, as bytes.

    Args:
        plan: The plan.
        addresses: Of the kernels, by symbol.
        slot: Address of the word that holds a workspace between calls.
        clock: Address of words that take a time for the beginning and one for the end of each
            step, as `clock.now` tells them; 0 for none. They hold no later time before.
    """
    arena = plan.arena()
    buffers = len(plan.fixed) + 1
    counters = aligned(runtime.BASES + 8 * buffers)
    scratch = counters + runtime.COUNTER_BYTES * len(plan.steps)
    arena_at = aligned(scratch) + plan.scratch * plan.threads
    header = np.zeros(runtime.TABLE_WORDS, np.int64)
    header[runtime.STEPS] = len(plan.steps)
    header[runtime.WORKSPACE_BYTES] = aligned(arena_at + arena + SLACK)
    header[runtime.ARENA] = arena_at
    header[runtime.SCRATCH] = aligned(scratch)
    header[runtime.SCRATCH_BYTES] = plan.scratch
    header[runtime.THREADS] = plan.threads
    header[runtime.SLOT] = slot
    header[runtime.CLOCK] = clock
    header[runtime.BUFFERS] = buffers
    header[runtime.PROCESS] = _PROCESS
    steps = np.zeros((len(plan.steps), runtime.STEP_WORDS), np.int64)
    arguments: list[int] = []
    first = runtime.TABLE_WORDS + steps.size
    for number, step in enumerate(plan.steps):
        steps[number, runtime.CODE] = addresses[step.kernel.symbol]
        steps[number, runtime.ARGUMENTS] = 8 * (first + len(arguments))
        steps[number, runtime.TASKS] = step.tasks
        arguments += _arguments(step, addresses, buffers - 1)
    words = np.concatenate([header, steps.reshape(-1), np.asarray(arguments, np.int64)])
    return words.view(np.uint8)


def _arguments(step: Step, addresses: Mapping[str, int], arena: int) -> list[int]:
    """Returns the words of a step: its parameters and tensors, then the steps of its body.

    A step of a body has as many words as one of the table, its arguments counted in bytes from the
    first word of the loop's.

    Args:
        step: The step.
        addresses: Of the kernels, by symbol.
        arena: The number of the buffer with the temporary tensors.
    """
    words = list(step.parameters.values())
    for view in step.tensors.values():
        words += _address(view, arena)
    if step.body is None:
        return words
    body, steps, inner = step.body, [], list[int]()
    first = len(words) + runtime.STEP_WORDS * len(body.steps)
    for each in body.steps:
        at = 8 * (first + len(inner))
        steps += [addresses[each.kernel.symbol], at, each.tasks, 0]
        inner += _arguments(each, addresses, len(body.fixed))
    return [*words, *steps, *inner]


def _address(view: BufferView, arena: int) -> Sequence[int]:
    buffer = view.buffer
    if buffer.number is not None:
        return buffer.number, view.offset
    return arena, buffer.offset + view.offset
