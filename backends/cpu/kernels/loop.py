"""The code of loops (see `native.kernels.loop`)."""

from __future__ import annotations

from qir.backends.cpu.emitter import I64, LlvmValue
from qir.backends.cpu.kernel import KernelBody, KernelCode, kernel_code
from qir.backends.cpu.kernels.movement import copy
from qir.backends.cpu.runtime import ARGUMENTS, CODE, KERNEL_TYPE, STEP_WORDS, TASKS
from qir.backends.native.kernels.loop import LoopKernel


@kernel_code(LoopKernel)
class LoopCode(KernelCode, LoopKernel):
    """The code of `LoopKernel`."""

    def write(self, e: KernelBody) -> None:
        """Tells the body where its buffers are in each trip, and runs its steps."""
        build, number = e.build, e.number
        at = {name: e.tensor(name) for name in self.tensors}
        bytes_ = {name: e.parameter(name) for name in self.parameters}
        trips = bytes_["trips"]
        first = 1 + self.invariants
        results = first + self.carries + self.stacked
        count = results + self.carries + self.results + 1
        bases = e.reserve(8 * count)

        def put(pointer: LlvmValue, place: int) -> None:
            e.store(pointer, bases, 8 * place, 8)

        put(at["constants"], 0)
        for index in range(self.invariants):
            put(at[f"invariant{index}"], 1 + index)
        put(at["temporary"], count - 1)
        carried = [at[f"first{index}"] for index in range(self.carries)]
        even, odd = (
            [at[f"{name}{index}"] for index in range(self.carries)] for name in ("even", "odd")
        )
        with e.loop(trips, carried=[*carried, *even, *odd]) as trip:
            groups = [trip.values[k * self.carries : (k + 1) * self.carries] for k in range(3)]
            carried, next_, other = groups
            place = trip.index
            if self.reverse:
                place = build.sub(build.sub(trips, number(1)), place)
            for index in range(self.carries):
                put(carried[index], first + index)
                put(next_[index], results + index)
            for index in range(self.stacked):
                offset = build.mul(place, bytes_[f"stacked_bytes{index}"])
                put(e.at(at[f"stacked{index}"], offset), first + self.carries + index)
            for index in range(self.results):
                offset = build.mul(place, bytes_[f"result_bytes{index}"])
                put(e.at(at[f"result{index}"], offset), results + self.carries + index)
            self._write_steps(e, bytes_["steps"], bases)
            trip.carry(*next_, *other, *next_)
        last = trip.values[: self.carries]
        for index in range(self.carries):
            copy(e, at[f"last{index}"], last[index], bytes_[f"carried_bytes{index}"])

    def _write_steps(self, e: KernelBody, steps: LlvmValue, bases: LlvmValue) -> None:
        """Runs the steps, whose words stand behind those of the loop itself."""
        build = e.build
        arguments = e.arguments[0]
        table = e.at(arguments, 8 * (len(self.parameters) + 2 * len(self.tensors)))
        with e.loop(steps, carried=[table]) as step:
            (record,) = step.values
            code = e.load(KERNEL_TYPE.as_pointer(), record, 8 * CODE, align=8)
            own = e.at(arguments, e.load(I64, record, 8 * ARGUMENTS, align=8))
            with e.loop(e.load(I64, record, 8 * TASKS, align=8)) as task:
                build.call(code, [own, bases, task.index, e.scratch])
            step.carry(e.at(record, 8 * STEP_WORDS))
