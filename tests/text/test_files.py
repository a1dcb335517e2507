"""What is written to disk: through links, never in place of a device, and never by half."""

import ast
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import qir
from qir.api import check_savable
from qir.errors import QirError
from qir.text.files import check_writable, write_atomically
from tests.layout import modules

PROGRAM = qir.parse("graph @g(%x: f32[2]) {\n  return %x\n}")
WITH_ARRAYS = qir.Graph("g")
WITH_ARRAYS.set_outputs([WITH_ARRAYS.at_end().const(np.arange(90, dtype=np.float32), "k")])


def write(path: Path, content: bytes = b"new") -> None:
    write_atomically({path: lambda file: file.write(content)})


def test_the_file_that_a_link_leads_to_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "inner").mkdir()
    target, link = tmp_path / "inner/file", tmp_path / "link"
    target.write_bytes(b"old")
    (tmp_path / "second").symlink_to("inner/file")
    link.symlink_to("second")
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path / "inner") == ["file"]


def test_a_link_to_a_file_that_is_not_there_yet_stays_a_link(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("later")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "later").read_bytes() == b"new"


def test_a_program_is_written_through_links(tmp_path):
    (tmp_path / "g.qir").symlink_to("real.g.qir")
    qir.save(PROGRAM, tmp_path / "g.qir")
    assert qir.load(tmp_path / "g.qir") == PROGRAM
    assert (tmp_path / "g.qir").is_symlink()
    assert (tmp_path / "real.g.qir").is_file()


@pytest.mark.parametrize("linked", [False, True])
def test_a_device_gets_the_bytes_and_stays_a_device(linked, tmp_path):
    path = Path(os.devnull)
    if linked:
        path = tmp_path / "g.qir"
        path.symlink_to(os.devnull)
        qir.save(PROGRAM, path)
    write(path)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert path.is_symlink() == linked


def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join()
    assert read == [b"new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_pipe_gets_nothing_of_what_fails_by_half(tmp_path):
    def failing(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(QirError, match="No space left on device"):
        write_atomically({pipe: failing})
    assert os.read(reader, 4) == b""
    os.close(reader)


def test_a_folder_and_a_socket_are_refused_and_stay(tmp_path):
    with pytest.raises(QirError) as caught:
        write(tmp_path)
    assert caught.value.message == f"file: can't write {tmp_path}: Is a directory"
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        for refused in (write, check_writable):
            with pytest.raises(QirError) as caught:
                refused(path)
            assert caught.value.message == (
                f"file: can't write {path}: expected the path of a file, "
                "got that of a device or socket"
            )
    assert stat.S_ISSOCK(path.stat().st_mode)


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_standard_output_is_written_behind_what_it_holds(tmp_path):
    """A file that output is appended to would lose what it holds, were it replaced."""
    log = tmp_path / "log"
    log.write_bytes(b"old ")
    script = (
        "from pathlib import Path\nfrom qir.text.files import write_atomically\n"
        "print('printed', end=' ')\n"
        "write_atomically({Path('/dev/stdout'): lambda file: file.write(b'new')})\n"
    )
    with log.open("ab") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, check=True)
    assert log.read_bytes() == b"old printed new"


@pytest.mark.parametrize("name", ["no/file", "file/file", "loop"])
def test_what_can_not_be_written_is_known_beforehand(name, tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "loop").symlink_to("loop")
    messages = []
    for refused in (check_writable, write):
        with pytest.raises(QirError) as caught:
            refused(tmp_path / name)
        messages.append(caught.value.message)
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"file: can't write {tmp_path / name}: ")
    check_writable(tmp_path / "file", tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_arrays_are_written_into_a_pipe(tmp_path):
    """A zip file is written from end to end, though a pipe has no positions."""
    program = qir.parse("graph @g() {\n  %k = const : f32[99]\n  return %k\n}", {
        "k": np.arange(99, dtype=np.float32)
    })  # fmt: skip
    pipe = tmp_path / "g.npz"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    qir.save(program, tmp_path / "g.qir")
    reader.join()
    pipe.unlink()
    pipe.write_bytes(read[0])
    assert qir.load(tmp_path / "g.qir") == program


def opens_for_writing(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    words = [word.value for word in call.args if isinstance(word, ast.Constant)]
    words += [word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)]
    writes = name in {"open", "fdopen"} and any(
        isinstance(word, str) and re.fullmatch(r"[rwaxbt+]{1,3}", word) and set(word) & set("wax+")
        for word in words
    )
    return writes or name in {"write_text", "write_bytes", "tofile", "savez", "savefig", "mkstemp"}


def test_nothing_else_writes_files():
    others = {
        "qir.bench.cache": 1,  # the lock, which holds nothing
        "qir.__main__": 1,  # /dev/null, for output that nobody reads
        "qir.report.plots": 1,  # a page in memory
        "qir.text.storage": 1,  # a member of an archive
    }
    found = Counter(
        module
        for module, path in modules().items()
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and opens_for_writing(call)
    )
    assert found.pop("qir.text.files") > 1
    assert found == others


def test_arrays_of_another_are_not_replaced(tmp_path):
    np.savez(tmp_path / "samples.npz", x=np.ones(3))
    before = (tmp_path / "samples.npz").read_bytes()
    for save in (qir.save, lambda _, path: check_savable(path)):
        with pytest.raises(QirError, match=r"is there without .*samples\.qir"):
            save(WITH_ARRAYS, tmp_path / "samples.qir")
    assert (tmp_path / "samples.npz").read_bytes() == before
    assert not (tmp_path / "samples.qir").exists()


def test_two_paths_to_one_file_are_refused(tmp_path):
    (tmp_path / "z.qir").write_text("")
    (tmp_path / "z.npz").symlink_to("z.qir")
    with pytest.raises(QirError, match="lead to one file"):
        qir.save(WITH_ARRAYS, tmp_path / "z.qir")
    assert (tmp_path / "z.qir").read_text() == ""


def test_arrays_lie_beside_what_a_link_to_the_text_leads_to(tmp_path):
    (tmp_path / "real").mkdir()
    qir.save(WITH_ARRAYS, tmp_path / "real/r.qir")
    (tmp_path / "k.qir").symlink_to("real/r.qir")
    assert qir.load(tmp_path / "k.qir") == WITH_ARRAYS
    qir.save(WITH_ARRAYS, tmp_path / "k.qir")
    assert qir.load(tmp_path / "real/r.qir") == WITH_ARRAYS
    assert not (tmp_path / "k.npz").exists()
