"""Progress bars of what compiling by kernels takes: on a terminal, and where it takes long."""

import io
import sys

import pytest

pytest.importorskip("llvmlite")

import qir
from qir.backends.cpu.objects import object_codes
from qir.backends.cpu.target import host_target
from qir.report import progress
from tests.backends.cpu.test_objects import written
from tests.backends.native.test_plan import images, network

LABELS = ("packing weights", "writing kernels", "assembling kernels")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def compiling(tmp_path, monkeypatch):
    """Compiles with a stream as stderr, and returns what it shows."""
    target = host_target()
    if target is None:
        pytest.skip("no kernels for this machine")
    monkeypatch.setenv("QIR_CACHE_DIR", str(tmp_path))

    def compiling(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        qir.compile(network())(images(1))
        object_codes(written([]), target)
        return stream.getvalue()

    return compiling


def test_a_terminal_shows_what_takes_long(compiling, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0)
    shown = compiling(Terminal())
    assert all(label in shown for label in LABELS)


def test_what_is_short_or_goes_to_a_file_shows_nothing(compiling, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 3600)
    assert compiling(Terminal()) == ""
    monkeypatch.setattr(progress, "DELAY", 0)
    assert compiling(io.StringIO()) == ""
