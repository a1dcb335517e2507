"""Files that were damaged or made to do harm: an error, never a traceback, and little memory."""

import io
import os
import random
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.observe.batches import read_samples
from qir.text.storage import write_arrays
from qir.types import Affine, Array, DType

PROGRAM = "graph @g(%x: f32[B,3]) {\n  %k = const : f32[3,9]\n  %y = dot(%x, %k) : f32[B,9]\n"
GRAPH = qir.parse(f"{PROGRAM}  return %y\n}}", {"k": np.arange(27, dtype="f").reshape(3, 9)})
SAMPLES = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
SMALL = 2**20
"""Bytes that refusing a file may take: zipfile reads ahead, and Python keeps what it compiles."""


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def header(shape: str, word: str = "<f4", version: bytes = b"\x01\x00") -> bytes:
    text = f"{{'descr': '{word}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text


def mutants(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Files that differ from a whole one in a few bytes, a piece, or the order of two pieces."""
    rng = random.Random(seed)
    for _ in range(count):
        changed = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 4])):
            place, other = sorted(rng.randrange(len(changed)) for _ in range(2))
            match rng.randrange(6):
                case 0:
                    changed[place] ^= 1 << rng.randrange(8)
                case 1:
                    changed[place] = rng.choice(b"()[]{}'\",:\\\n 0-<>|OVfeEx#\x00\xff")
                case 2:
                    changed[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\1\0\0\0"])
                case 3:
                    del changed[place : min(other, place + 8)]
                case 4:
                    changed[place:place] = rng.choice([b"(", b"'", b"9" * 30, b"\\x", b"\n  \t("])
                case _:
                    changed = changed[: max(place, 1)]
        yield bytes(changed)


FILES = {
    "x.npy": npy(SAMPLES),
    "big endian.npy": npy(SAMPLES.astype(">f4")),
    "x.npz": npz(x=npy(SAMPLES)),
    "deflated.npz": npz(zipfile.ZIP_DEFLATED, x=npy(SAMPLES), y=npy(SAMPLES)),
}


def survives(read: Callable[[], object], whole: bytes, path: Path, count: int, seed: int) -> None:
    """Reads mutants of a file: each gives something or an error of QIR's."""
    refused = 0
    for mutant in mutants(whole, count, seed):
        path.write_bytes(mutant)
        try:
            read()
        except QirError:
            refused += 1
    assert refused > count / 4


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_samples_is_an_error(name, tmp_path):
    path = tmp_path / name
    survives(lambda: read_samples(path, GRAPH), FILES[name], path, 300, seed=0)


@pytest.mark.parametrize("suffix", [".qir", ".npz"])
def test_a_damaged_program_is_an_error(suffix, tmp_path):
    path = tmp_path / "g.qir"
    qir.save(GRAPH, path)
    damaged = path.with_suffix(suffix)
    survives(lambda: qir.load(path), damaged.read_bytes(), damaged, 150, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_many_damaged_files_are_errors(seed, tmp_path):
    for name, whole in FILES.items():
        path = tmp_path / name
        survives(partial(read_samples, path, GRAPH), whole, path, 2000, seed)
    path = tmp_path / "g.qir"
    for suffix in (".qir", ".npz"):
        qir.save(GRAPH, path)
        damaged = path.with_suffix(suffix)
        survives(lambda: qir.load(path), damaged.read_bytes(), damaged, 500, seed)


def test_samples_are_read_as_numpy_wrote_them(tmp_path):
    for number, array in enumerate(
        [SAMPLES, SAMPLES.astype(">f4"), SAMPLES.astype(np.float64), np.asfortranarray(SAMPLES)]
    ):
        path = tmp_path / f"{number}.npy"
        np.save(path, array)
        found = read_samples(path, GRAPH)["x"]
        np.testing.assert_array_equal(found, SAMPLES)
        assert found.dtype == np.dtype(np.float32)
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "x.npz", x=array, other=SAMPLES)
            np.testing.assert_array_equal(read_samples(tmp_path / "x.npz", GRAPH)["x"], SAMPLES)


def test_samples_of_bfloat16_come_back(tmp_path):
    graph = qir.parse("graph @g(%x: bf16[3]) {\n  return %x\n}")
    (numbers,) = qir.evaluate(graph, np.array([1, 2, 3], graph.inputs[0].type.dtype.numpy))
    with (tmp_path / "x.npz").open("wb") as file:
        write_arrays(file, {"x": numbers})
    found = read_samples(tmp_path / "x.npz", graph)["x"]
    assert found.dtype == numbers.dtype
    np.testing.assert_array_equal(found, numbers)


def peak(call: Callable[[], object]) -> tuple[str, int]:
    """The message that a call ends with, and the most bytes that it took meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(QirError) as caught:
            call()
        return caught.value.message, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


ZEROS = 2**26
HUGE = 2**50


def with_size(archive: bytes, size: int) -> bytes:
    """Returns an archive of one member whose directory tells another size of it."""
    start = archive.rindex(b"PK\x01\x02") + 24
    return archive[:start] + size.to_bytes(4, "little") + archive[start + 4 :]


BOMBS: dict[str, tuple[str, bytes, str]] = {
    "an .npy of a huge shape": (
        "x.npy",
        header(f"({HUGE}, 3)") + b"\0" * 99,
        "it ends before the 13,510,798,882,111,488 bytes of its numbers",
    ),
    "an .npz whose header has a huge shape": (
        "x.npz",
        npz(x=header(f"({HUGE}, 3)")),
        "it ends before the 13,510,798,882,111,488 bytes of its numbers",
    ),
    "an .npz of zeros whose header is a huge one": (
        "x.npz",
        npz(
            zipfile.ZIP_DEFLATED,
            x=b"\x93NUMPY\x02\x00" + ZEROS.to_bytes(4, "little") + bytes(ZEROS),
        ),
        f"expected a header of at most 4096 bytes, got {ZEROS}",
    ),
    "an .npz that tells a size which it does not have": (
        "x.npz",
        with_size(npz(x=header(f"({2**26}, 3)") + b"\0" * 999), 2**30),
        "it ends before the 805,306,368 bytes of its numbers",
    ),
    "an .npz of a kind that takes a dictionary": (
        "x.npz",
        npz(zipfile.ZIP_LZMA, x=npy(SAMPLES)),
        "expected 'x' to be stored or deflated",
    ),
}


@pytest.mark.parametrize("what", BOMBS)
def test_samples_that_would_take_much_memory_are_refused_before_it_is_taken(what, tmp_path):
    name, content, reason = BOMBS[what]
    path = tmp_path / name
    path.write_bytes(content)
    message, memory = peak(lambda: read_samples(path, GRAPH))
    assert message == f"data: can't read {path}: {reason}"
    assert memory < SMALL


def test_an_array_larger_than_the_text_says_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "g.qir"
    qir.save(GRAPH, path)
    for content in (
        npz(zipfile.ZIP_DEFLATED, k=header(f"({ZEROS},)", "|u1") + bytes(ZEROS)),
        npz(zipfile.ZIP_DEFLATED, k=header("(108,)", "|u1") + bytes(ZEROS)),
    ):
        path.with_suffix(".npz").write_bytes(content)
        message, memory = peak(lambda: qir.load(path))
        assert message in (
            f"load: expected 108 bytes for f32[3, 9], got {ZEROS}",
            f"load: the array @k in {path.with_suffix('.npz')} is not the one that the text was "
            "written with",
        )
        assert memory < SMALL


def test_a_text_that_asks_for_more_than_the_machines_memory_is_refused(tmp_path):
    path = tmp_path / "g.qir"
    qir.save(GRAPH, path)
    path.write_text(path.read_text().replace("@k : f32[3,9]", f"@k : f32[{HUGE},9]"))
    message, memory = peak(lambda: qir.load(path))
    assert message.endswith(" bytes are more than this machine's memory")
    assert memory < SMALL
    text = f"graph @g() {{\n  %k = const 1 : f32[{HUGE}]\n  return %k\n}}"
    message, memory = peak(lambda: qir.parse(text))
    assert message == f"const: f32[{HUGE}]: {4 * HUGE:,} bytes are more than this machine's memory"
    assert memory < SMALL


def test_what_the_arrays_take_unpacked_is_counted_all_together(tmp_path, monkeypatch):
    """Two numbers of 4 bits share a byte of a file, and one number of a text fills any array."""
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}.__getitem__)
    graph = qir.Graph("weights")
    b, code = graph.at_end(), Affine.of(DType.I4, 1.0)
    arrays = [(np.arange(300_000) % n).astype(np.int8) for n in (6, 7)]
    graph.set_outputs([b.const(array, "k", code) for array in arrays])
    path = tmp_path / "g.qir"
    qir.save(graph, path)
    assert path.with_suffix(".npz").stat().st_size < 310_000
    with pytest.raises(QirError, match="600,000 bytes are more than this machine's memory"):
        qir.load(path)
    text = "graph @g() {\n  %k = const 1 : f32[60000]\n  %l = const 1 : f32[60000]\n  return %k\n}"
    with pytest.raises(QirError, match="480,000 bytes are more than this machine's memory"):
        qir.parse(text)


def test_a_curve_has_no_more_numbers_than_a_table_of_16_bits(tmp_path):
    """Its differences have 4 bits: a file of any length would name an array 64 times as long."""
    graph, path = qir.Graph("line"), tmp_path / "g.qir"
    graph.set_outputs([graph.at_end().const(np.arange(70_000, dtype=np.int32), "k")])
    qir.save(graph, path)
    assert qir.load(path) == graph
    text = path.read_text()
    assert " as curve" not in text
    path.write_text("i32[70000] as curve".join(text.rsplit("i32[70000]", 1)))
    message, _ = peak(lambda: qir.load(path))
    assert message == "load: expected at most 65536 integers as curve, got i32[70000]"
