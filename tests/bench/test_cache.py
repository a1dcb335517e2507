"""The cache on disk: what comes back, what a damaged file does, several writers at once."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Thread

import pytest

from qir.bench.cache import CacheTable, Facts, cache_folder, locked
from tests.layout import ROOT

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no POSIX locks")
FACTS: Facts = {"processor": "one", "cores": 4}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QIR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_merged_comes_back(folder):
    CacheTable("times", FACTS).merge({"a": {"x": 1.5}})
    CacheTable("times", FACTS).merge({"b": 2})
    table = CacheTable("times", FACTS)
    assert table.read() == {"a": {"x": 1.5}, "b": 2}
    assert table.path.parent == folder
    assert json.loads(table.path.read_text())["facts"] == FACTS
    assert table.warnings == []


def test_nothing_is_written_where_nothing_is_new(folder):
    CacheTable("times", FACTS).merge({})
    assert CacheTable("times", FACTS).read() == {}
    assert not folder.exists()


def test_other_facts_and_other_kinds_are_other_tables():
    CacheTable("times", FACTS).merge({"a": 1})
    assert CacheTable("times", {**FACTS, "cores": 8}).read() == {}
    assert CacheTable("kernels", FACTS).read() == {}


def test_a_copied_file_of_another_machine_is_not_believed():
    first, second = CacheTable("times", FACTS), CacheTable("times", {**FACTS, "cores": 8})
    first.merge({"a": 1})
    second.path.write_bytes(first.path.read_bytes())
    assert second.read() == {}
    assert second.warnings == [f"{second.path} holds no times of this machine; it is written anew"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"entries": 3}'])
def test_a_damaged_file_is_written_anew(content):
    table = CacheTable("times", FACTS)
    table.merge({"a": 1})
    table.path.write_bytes(content)
    assert table.read() == {}
    (warning,) = table.warnings
    assert str(table.path) in warning
    table.merge({"b": 2})
    again = CacheTable("times", FACTS)
    assert again.read() == {"b": 2}
    assert again.warnings == []


def test_a_folder_that_cannot_be_written_is_a_warning(folder):
    folder.write_text("a file in its place")
    table = CacheTable("times", FACTS)
    table.merge({"a": 1})
    assert table.warnings == [f"can't write {table.path}: File exists"]


def test_entries_that_cannot_be_written_leave_the_file_as_it_was(monkeypatch):
    table = CacheTable("times", FACTS)
    table.merge({"a": 1})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    table.merge({"b": 2})
    assert table.warnings == [f"can't write {table.path}: No space left on device"]
    assert table.read() == {"a": 1}
    names = {table.path.name, f"{table.path.name}.lock"}
    assert {path.name for path in table.path.parent.iterdir()} == names


@POSIX
def test_processes_that_write_at_once_lose_nothing():
    script = """
import sys
from qir.bench.cache import CacheTable
table = CacheTable("times", {"cores": 1})
print("ready", flush=True)
sys.stdin.read()
for count in range(40):
    table.merge({f"{sys.argv[1]} {count}": count})
assert table.warnings == []
"""
    with ExitStack() as running:
        writers = [
            running.enter_context(
                Popen([sys.executable, "-c", script, name], stdin=PIPE, stdout=PIPE, cwd=ROOT)
            )
            for name in "ab"
        ]
        assert [writer.stdout and writer.stdout.readline() for writer in writers] == [
            b"ready\n"
        ] * 2
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.close()
    assert [writer.returncode for writer in writers] == [0, 0]
    found = CacheTable("times", {"cores": 1}).read()
    assert found == {f"{name} {count}": count for name in "ab" for count in range(40)}


@POSIX
def test_a_writer_waits_for_another():
    table = CacheTable("times", FACTS)
    table.merge({"a": 1})
    with locked(table.path):
        late = Thread(target=CacheTable("times", FACTS).merge, args=[{"b": 2}])
        late.start()
        late.join(timeout=0.3)
        assert late.is_alive()
        assert table.read() == {"a": 1}
    late.join()
    assert table.read() == {"a": 1, "b": 2}


def test_where_the_folder_is(monkeypatch):
    home = Path("/home/somebody")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("QIR_CACHE_DIR", "own")
    assert cache_folder() == Path("own")
    monkeypatch.setenv("QIR_CACHE_DIR", "")
    assert cache_folder() == Path("/caches/qir")
    for relative in ("", "caches"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache_folder() == home / ".cache" / "qir"
