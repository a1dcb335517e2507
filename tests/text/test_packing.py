"""The bytes of arrays beside a text: small integers share them, scales and tables have forms."""

import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.ops import Dequantize, Quantize
from qir.text import to_program
from qir.text.packing import compact_form, pack, packed_bytes, unpack
from qir.text.storage import write_arrays
from qir.types import MXFP4, NVFP4, Affine, DType, TensorType


@pytest.mark.parametrize("name", ["i2", "i4", "u4"])
@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_small_integers_share_bytes_lowest_first(name, count):
    dtype = DType(name)
    numbers = np.resize(np.arange(dtype.bounds[0], dtype.bounds[1] + 1), count).astype(dtype.numpy)
    raw = pack(numbers, dtype)
    assert len(raw) == -(-count * dtype.bits // 8)
    assert np.array_equal(unpack(raw, dtype, (count,)), numbers)
    assert pack(np.array([1, -2], np.int8), DType.I4).tolist() == [0xE1]


POWERS = np.exp2(np.arange(-126, 128)).astype(np.float32)


def test_powers_of_two_take_a_byte_each():
    assert compact_form(POWERS) == "e8m0"
    raw = pack(POWERS, DType.F32, "e8m0")
    assert raw.tolist() == list(range(1, 255))  # the exponents of OCP's E8M0
    assert packed_bytes(DType.F32, (254,), "e8m0") == 254
    assert unpack(raw, DType.F32, (2, 127), "e8m0").tobytes() == POWERS.tobytes()
    for other in (0.0, -1.0, 1.5, np.inf, np.nan, 2.0**-127):
        assert compact_form(np.append(POWERS, np.float32(other))) == ""
    assert compact_form(POWERS.astype(np.float64)) == compact_form(POWERS[:0]) == ""


@pytest.mark.parametrize(("kind", "block", "bits"), [(MXFP4, 32, 4.25), (NVFP4, 16, 4.5)])
def test_block_scales_take_the_bits_of_their_formats(tmp_path, kind, block, bits):
    real = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    code = kind.fit(real, (64 // block, 64))
    graph = qir.Graph("blocks")
    b = graph.at_end()
    graph.set_outputs([b.emit(Dequantize(), b.const(code.encode(real), "w", code))])
    qir.save(graph, tmp_path / "g.qir")
    assert qir.load(tmp_path / "g.qir") == graph
    with np.load(tmp_path / "g.npz") as arrays:
        size = sum(array.nbytes for array in arrays.values())
    assert size * 8 / real.size == bits
    assert qir.summary(graph).parameter_bytes == size


TABLES = {
    "silu": lambda x: np.rint(x / (1 + np.exp(-x)) * 4000).astype(np.int16),
    "tanh": lambda x: np.rint(np.tanh(x) * 32767).astype(np.int16),
    "exponentials": lambda x: np.rint(np.exp(x - 8) * 2**22).astype(np.int32),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("start", [0, 32768])
def test_tables_of_smooth_functions_take_half_a_byte_for_each_number(tmp_path, name, start):
    table = np.roll(TABLES[name](np.arange(-32768, 32768) / 4096), start)
    graph = qir.Graph("table")
    graph.set_outputs([graph.at_end().const(table, "table")])
    qir.save(graph, tmp_path / "g.qir")
    assert "[65536] as curve " in (tmp_path / "g.qir").read_text()
    assert qir.load(tmp_path / "g.qir").value("table").array.tobytes() == table.tobytes()
    with np.load(tmp_path / "g.npz") as arrays:
        assert arrays["table"].nbytes == qir.summary(graph).parameter_bytes == 12 + 32767


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_tables_that_are_no_curves_stay_as_they_are(dtype):
    line = np.full(4096, 5, dtype)
    line[100] += 3  # second differences of 3, -6 and 3
    assert compact_form(line) == "curve"
    line[[100, 200]] += 9  # one of them ends where the other begins
    assert compact_form(line) == ""
    assert compact_form(np.zeros(4095, dtype)) == compact_form(np.zeros((64, 64), dtype)) == ""
    ends = np.iinfo(dtype)
    assert compact_form(np.resize([ends.min, ends.max], 4096).astype(dtype)) == ""
    ramp = np.roll(np.linspace(ends.min + 1, ends.max, 4096).astype(dtype), 7)
    assert compact_form(ramp) == "curve"
    raw = pack(ramp, DType.of(ramp.dtype), "curve")
    assert np.array_equal(unpack(raw, DType.of(ramp.dtype), ramp.shape, "curve"), ramp)


def saved_powers(path):
    graph = qir.Graph("powers", [("x", TensorType((3, 64), DType.F32))])
    scale = np.exp2(np.arange(64) % 9 - 7).reshape(1, 64)
    graph.set_outputs([graph.at_end().emit(Quantize(Affine.of(DType.I8, scale)), *graph.inputs)])
    qir.save(graph, path)
    return graph


def test_powers_of_two_that_older_files_hold_as_floats(tmp_path):
    graph, path = saved_powers(tmp_path / "g.qir"), tmp_path / "g.qir"
    text = path.read_text()
    assert "f32[64] as e8m0 " in text
    path.write_text(text.replace(" as e8m0", ""))
    ((name, scale),) = to_program(graph).arrays.items()
    with (tmp_path / "g.npz").open("wb") as file:
        write_arrays(file, {name: pack(scale, DType.F32)})
    assert qir.load(path) == graph


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "as e8m0",
            "as e4m3",
            "load: expected f32 as e8m0, a table of 4096 integers and more as curve, or no form, "
            "got f32[64] as e4m3",
        ),
        ("f32[64] as", "i8[64] as", "load: expected f32 as e8m0"),
        (" as e8m0", "", "load: expected 256 bytes for f32[64], got 64"),
    ],
)
def test_a_form_that_does_not_fit(old, new, message, tmp_path):
    saved_powers(tmp_path / "g.qir")
    text = (tmp_path / "g.qir").read_text()
    assert old in text
    (tmp_path / "g.qir").write_text(text.replace(old, new))
    with pytest.raises(QirError) as caught:
        qir.load(tmp_path / "g.qir")
    assert str(caught.value).startswith(message)
    assert "array @" in str(caught.value)
