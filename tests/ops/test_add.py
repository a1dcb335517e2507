import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.errors import QirError, UnsupportedError
from qir.types import Array
from tests.ops.programs import program
from tests.roundings import COMPUTED, registered

INPUTS = "%x: i8[256,1]{scale=0.5, zp=3}, %y: u8[256]{scale=0.25, zp=128}, %f: f32[256]"
RESULT = "i8[256,256]{scale=1.0, zp=-5}"


def all_pairs() -> tuple[Array, Array]:
    x = np.arange(-128, 128).astype(np.int8)[:, None]
    return x, np.arange(256).astype(np.uint8)


def summed(attributes: str = "", op: str = "add") -> qir.Graph:
    line = f"{op}(%x, %y) {attributes}: {RESULT}"
    return program("%x: i8[256,1]{scale=0.5, zp=3}, %y: u8[256]{scale=0.25, zp=128}", line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"add(%x, %y) {{shift = 8}} : {RESULT}", "multipliers together with a shift"),
        (f"add(%x, %y) {{multipliers = [1, 2]}} : {RESULT}", "multipliers together with a shift"),
        (
            f"add(%x, %y) {{multipliers = [1, 2], shift = 31}} : {RESULT}",
            r"a shift in \[1, 30\], got 31",
        ),
        (f"sub(%x, %y) {{multipliers = [1, -2], shift = 8}} : {RESULT}", r"in \[0, 2\^31\)"),
        (
            f"add(%x, %y) {{multipliers = [16777216, 16777216], shift = 24}} : {RESULT}",
            r"in 32 bits, got \[16777216, 16777216\] with shift 24, which reach 4353687552",
        ),
        (f"add(%x, %y) {{rounding = fixed_31}} : {RESULT}", "did you mean 'fixed31'"),
        (f"add(%x, %y) {{rounding = q8}} : {RESULT}", r"divide by 2\^24, got q8"),
        ("add(%f, %f) {rounding = f32_rne} : f32[256]", "no rounding, .* without codes"),
        ("sub(%f, %f) {multipliers = [1, 1], shift = 3} : f32[256]", "without codes"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


def test_operands_that_change_places_keep_their_multipliers() -> None:
    text = f"""
graph @turned(%y: u8[256]{{scale=0.25, zp=128}}) {{
  %x = const [[5], [-128], [127]] : i8[3,1]{{scale=0.5, zp=3}}
  %z = add(%x, %y) {{multipliers = [48, 23], shift = 6}} : {RESULT.replace("256,256", "3,256")}
  return %z
}}"""
    graph = qir.parse(text)
    turned = qir.optimize(graph, "canonicalize")
    assert "add(%y, %x) {multipliers = [23, 48], shift = 6}" in str(turned)
    y = all_pairs()[1]
    assert np.array_equal(run(turned, y)[0], run(graph, y)[0])


def test_the_greatest_sum_that_fits_is_exact() -> None:
    # 131 and 128 steps from the zero points at most.
    greatest = (2**31 - 1 - 2**7 - 128 * 8_000_000) // 131
    graph = summed(f"{{multipliers = [{greatest}, 8000000], shift = 8}} ")
    assert np.array_equal(qir.compile(graph)(*all_pairs())[0], run(graph, *all_pairs())[0])
    with pytest.raises(QirError, match="in 32 bits"):
        summed(f"{{multipliers = [{greatest + 1}, 8000000], shift = 8}} ")


@pytest.mark.parametrize("op", ["add", "sub"])
def test_what_lower_requantize_writes_out_changes_nothing(op: str) -> None:
    graph = summed(op=op)
    lowered = qir.optimize(graph, "lower-requantize")
    assert "multipliers = [8388608, 4194304], shift = 24" in str(lowered)
    assert np.array_equal(run(lowered, *all_pairs())[0], run(graph, *all_pairs())[0])
    assert np.array_equal(qir.compile(lowered)(*all_pairs())[0], run(graph, *all_pairs())[0])


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        # Half a step, up, to even and away from zero: -1.5, -0.5, 0.5, 1.5.
        ("fixed31", [-1, 0, 1, 2]),
        ("f32_rne", [-2, 0, 0, 2]),
        ("half_away", [-2, -1, 1, 2]),
    ],
)
def test_a_rounding_decides_ties(rounding: str, expected: list[int]) -> None:
    code = "i8[4]{scale=1.0}"
    line = f"add(%x, %y) {{rounding = {rounding}, multipliers = [1, 2], shift = 1}} : {code}"
    graph = program(f"%x: {code}, %y: {code}", line)
    x, y = np.array([-3, -1, 1, 3], np.int8), np.zeros(4, np.int8)
    for (found,) in (run(graph, x, y), qir.compile(graph)(x, y)):
        assert found.tolist() == expected


@pytest.mark.parametrize("rounding", [name for name in COMPUTED if name != "q8"])
@pytest.mark.parametrize("op", ["add", "sub"])
def test_every_rounding_of_all_pairs(op: str, rounding: str) -> None:
    graph = summed(f"{{rounding = {rounding}, multipliers = [48, 23], shift = 6}} ", op)
    x, y = all_pairs()
    (expected,) = run(graph, x, y)
    assert np.array_equal(qir.compile(graph)(x, y)[0], expected)
    sign = 1 if op == "add" else -1
    total = (x.astype(int) - 3) * 48 + sign * (y.astype(int) - 128) * 23
    inside = (expected > -128) & (expected < 127)
    distance = np.abs(total - (expected.astype(int) + 5) * 64)[inside]
    # The first of two roundings, to a whole number of twos, moves the sum by one.
    assert distance.max() <= 64 // 2 + (rounding in ("srdhm_up", "tflite_double"))


def test_a_rounding_without_a_form_is_refused_by_name() -> None:
    with registered():
        graph = summed("{rounding = power_floor} ")
        with pytest.raises(UnsupportedError, match=r"xla: add %y0: .* got power_floor"):
            qir.compile(graph)
        assert run(graph, *all_pairs())[0].dtype == np.int8


RESIDUAL = """
graph @residual(%x: i8[64,16]{scale=0.5, zp=3}, %r: i8[64,32]{scale=0.25}) {
  %k = const 3 : i8[16,32]{scale=0.01}
  %a = dot(%x, %k) : i32[64,32]{scale=%x*%k}
  %q = requantize(%a) : i8[64,32]{scale=0.2, zp=7}
  %y = add(%q, %r) {ROUNDED} : i8[64,32]{scale=0.3, zp=-9}
  return %y
}"""


@pytest.mark.parametrize(
    ("attributes", "fused"),
    [("multipliers = [683, 853], shift = 10", True), ("rounding = f32_rne", False)],
)
def test_kernels_compute_explicit_multipliers_and_leave_other_roundings(
    attributes: str, fused: bool
) -> None:
    pytest.importorskip("llvmlite")
    graph = qir.parse(RESIDUAL.replace("ROUNDED", attributes))
    compiled = qir.compile(graph, kernels=True)
    rng = np.random.default_rng(0)
    x, r = (rng.integers(-128, 128, (64, width)).astype(np.int8) for width in (16, 32))
    assert np.array_equal(compiled(x, r)[0], run(graph, x, r)[0])
    assert ("rounding f32_rne" not in str(compiled.partition())) == fused
