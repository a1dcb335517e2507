"""Timing in turns, by a clock that the test winds."""

import pytest

from qir.bench.machine import Machine, this_machine
from qir.bench.timing import Contender, Times, interleave


class Clock:
    """Time that passes only where somebody says so, and a record of who worked when."""

    def __init__(self):
        self.now = 0.0
        self.record = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.record.append(f"sleep {seconds}")
        self.now += seconds

    def contender(self, name, *seconds, pause=0.0):
        """Something whose calls take the given seconds, and then the last of them again."""
        left = list(seconds)

        def call():
            self.record.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return Contender(name, call, pause)


@pytest.fixture
def clock():
    return Clock()


def timed(clock, contenders, rounds, turn):
    return interleave(contenders, rounds, turn=turn, clock=clock, sleep=clock.sleep)


def test_contenders_take_turns_and_the_first_call_of_a_turn_does_not_count(clock):
    contenders = [clock.contender("a", 100, 1, 50, 2), clock.contender("b", 30, 4)]
    a, b = timed(clock, contenders, rounds=2, turn=0)
    assert clock.record == ["a", "a", "b", "b"] * 2
    assert (a, b) == (Times("a", (1, 2)), Times("b", (4, 4)))


def test_what_is_fast_is_called_until_its_turn_is_over(clock):
    fast, slow = timed(
        clock, [clock.contender("fast", 1), clock.contender("slow", 20)], rounds=2, turn=3
    )
    assert fast.seconds == (1,) * 6
    assert slow.seconds == (20,) * 2


def test_a_pause_comes_before_the_turn_and_is_not_counted(clock):
    contenders = [clock.contender("qir", 1, pause=0.05), clock.contender("peer", 2)]
    qir, _ = timed(clock, contenders, rounds=1, turn=0)
    assert clock.record == ["sleep 0.05", "qir", "qir", "peer", "peer"]
    assert qir.seconds == pytest.approx((1,))


def test_quantiles_interpolate():
    times = Times("a", (4, 1, 2, 3, 5))
    assert times.median == 3
    assert times.quantile(0.1) == pytest.approx(1.4)
    assert Times("b", (1, 2)).median == 1.5


def test_a_machine_says_what_decides_its_speed():
    machine = Machine("A CPU", "x86_64", 4, frozenset({"sse", "avx2", "avx512_vnni"}), 0.5)
    assert str(machine) == (
        "A CPU, 4 cores, with avx2 avx512_vnni, without avx_vnni amx_int8, load average 0.50"
    )
    assert str(Machine("Other", "riscv64", 2, frozenset({"v"}), None)) == "Other, 2 cores"
    assert str(Machine("Mac", "aarch64", 8, frozenset(), None)) == "Mac, 8 cores"


def test_a_busy_machine_is_warned_of():
    quiet, busy = (Machine("A CPU", "x86_64", 4, frozenset(), load) for load in (1.0, 1.2))
    assert (quiet.warning, busy.busy) == ("", True)
    assert busy.warning == (
        "warning: the machine is busy (load average 1.20 on 4 cores): times are too long and vary"
    )


def test_this_machine_has_cores():
    assert this_machine().cores >= 1
    assert this_machine().processor
