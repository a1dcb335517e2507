"""Weights in codes under ops of floating point: packed, and decoded where they are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import qir
from qir.backends.xla.packed import packed, unpacked
from qir.ops import Const
from qir.types import DType

RNG = np.random.default_rng(5)
SMALL = [DType.I2, DType.I4, DType.U4, DType.I8, DType.U8]
WEIGHTS = {
    "i8": "weights=i8",
    "i8 by tensor": "per=tensor",
    "i4 by row": "weights=i4, per=row",
    "i4 by block": "weights=i4, per=block:8",
    "i2 by block": "weights=i2, per=block:8",
    "log2": "weights=i4, scheme=log2, per=block:8",
    "nf4": "weights=i4, scheme=nf4, per=block:16",
    "fp8": "scheme=fp8",
    "fp8_e5m2": "scheme=fp8_e5m2, per=block:8",
    "mxfp4": "weights=i4, scheme=mxfp4, per=block:32",
    "nvfp4": "weights=i4, scheme=nvfp4, per=block:16",
}


def coded(function, *inputs, options, **names):
    graph = qir.from_jax(function, *inputs, **names)
    program = qir.optimize(graph, f"quantize(activations=float, {options}), canonicalize")
    assert any(value.type.quant for value in program.values() if isinstance(value.op, Const))
    return program


def compared(program, *inputs):
    """Floats are within the bounds that `compile(check=True)` derives from each op's roundings."""
    compiled = qir.compile(program, check=inputs)
    for value in program.values():
        if (
            isinstance(value.op, Const)
            and value.type.quant
            and f"{value.name}.packed" in compiled.parameters
        ):
            octets = compiled.parameters[f"{value.name}.packed"]
            assert octets.dtype.itemsize == 1
            assert octets.size * 8 < 1.1 * value.array.size * value.type.dtype.bits
    return compiled


@given(st.sampled_from(SMALL), st.integers(0, 2), st.data())
def test_packing_is_reversed(storage, axis, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=3, max_size=3)))
    low, high = storage.bounds
    numbers = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).integers(
        low, high, shape, endpoint=True, dtype=np.int16
    )
    stored = numbers.astype(storage.numpy)
    octets = packed(stored, storage, axis)
    assert octets.nbytes == stored.size // shape[axis] * -(-shape[axis] * storage.bits // 8)
    found = unpacked(jnp.asarray(octets), storage, axis, shape[axis])
    assert found.dtype == storage.numpy
    np.testing.assert_array_equal(found, stored)


@pytest.mark.parametrize("options", WEIGHTS.values(), ids=WEIGHTS.keys())
@pytest.mark.parametrize("columns", [pytest.param(5, marks=pytest.mark.slow), 1100])
def test_products(options, columns):
    """Of so many columns that there are several tiles, of which the last one is not whole."""
    rows = 64 if columns == 5 else 256
    kernel = RNG.normal(0, 1, (rows, columns)).astype(np.float32)
    bias = RNG.normal(0, 1, columns).astype(np.float32)
    x = RNG.normal(0, 1, (2, 3, rows)).astype(np.float32)
    program = coded(lambda x: x @ kernel + bias, x, options=options)
    assert "dot_of_coded_weights" in compared(program, x).lowerings.values()


@pytest.mark.parametrize("options", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_tables(options):
    table = jnp.asarray(RNG.normal(0, 1, (37, 64)), jnp.float32)
    ids = np.array([[0, 5, 36], [99, -1, 7]], np.int32)
    program = coded(lambda ids: table.at[ids].get(mode="clip") * 2, ids, options=options)
    compiled = compared(program, ids)
    # Rows are decoded by the definition, and nothing is summed.
    np.testing.assert_array_equal(compiled(ids)[0], qir.evaluate(program, ids)[0])


@pytest.mark.parametrize("options", ["weights=i8", "weights=i4, per=block:2", "scheme=fp8"])
def test_tables_of_one_row(options):
    table = jnp.asarray(RNG.normal(0, 1, (1, 6)), jnp.float32)
    ids = np.array([[0, 1, -1], [0, 0, 7]], np.int32)
    program = coded(lambda ids: table.at[ids].get(mode="clip") * 2, ids, options=options)
    (found,) = compared(program, ids)(ids)
    assert found.shape == (2, 3, 6)
    np.testing.assert_array_equal(found, qir.evaluate(program, ids)[0])


@pytest.mark.slow
@pytest.mark.parametrize("options", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_convolutions(options):
    kernel = jnp.asarray(RNG.normal(0, 1, (3, 3, 64, 24)), jnp.float32)
    x = RNG.normal(0, 1, (2, 5, 5, 64)).astype(np.float32)

    def function(x):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    compared(coded(function, x, options=options), x)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_weights_of_16_bit_floats(dtype):
    kernel = jnp.asarray(RNG.normal(0, 1, (64, 8)), dtype)
    x = np.asarray(jnp.asarray(RNG.normal(0, 1, (4, 64)), dtype))
    program = coded(lambda x: x @ kernel, x, options=WEIGHTS["i4 by block"])
    compared(program, x)


def test_a_batch_of_any_size_a_vmap_and_an_export():
    kernel = RNG.normal(0, 1, (64, 8)).astype(np.float32)
    x = RNG.normal(0, 1, (4, 64)).astype(np.float32)
    program = coded(lambda x: x @ kernel, x, options=WEIGHTS["i4 by block"], batch="B")
    compiled = compared(program, x)
    (wanted,) = compiled(x)
    np.testing.assert_array_equal(jax.vmap(lambda row: compiled(row[None])[0][0])(x), wanted)
    (exported,) = compiled.export().call(x)
    np.testing.assert_allclose(exported, wanted, rtol=0, atol=64 * 2.0**-23 * np.abs(x).max() * 4)


def test_weights_that_several_products_read_are_one_constant():
    kernel = RNG.normal(0, 1, (64, 64)).astype(np.float32)
    x = RNG.normal(0, 1, (4, 64)).astype(np.float32)
    program = coded(lambda x: (x @ kernel) @ kernel, x, options=WEIGHTS["nf4"])
    assert len([node for node in program.nodes if isinstance(node.op, Const)]) == 1
    compared(program, x)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (3, 0, 2)])
@pytest.mark.parametrize("storage", SMALL)
def test_constants_without_a_number_are_decoded(storage, shape):
    of = f"[{','.join(map(str, shape))}]"
    text = f"""graph @empty(%x: f32[2]) {{
  %w = const : {storage.value}{of}{{scale=0.5}}
  %f = dequantize(%w) : f32{of}
  return %f, %x
}}"""
    graph = qir.parse(text, {"w": np.zeros(shape, storage.numpy)})
    assert qir.compile(graph)(np.ones(2, np.float32))[0].shape == shape


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (4, 0), (0, 0)])
def test_products_with_weights_without_a_number(rows, columns):
    """A product over no terms is 0, or the bias; rows of no column are rows all the same."""
    text = f"""graph @empty(%x: f32[2,{rows}], %ids: i32[2]) {{
  %w = const : i4[{rows},{columns}]{{scale=0.5}}
  %f = dequantize(%w) : f32[{rows},{columns}]
  %y = dot(%x, %f) : f32[2,{columns}]
"""
    text += f"  %e = embedding(%f, %ids) : f32[2,{columns}]\n" if rows else ""
    graph = qir.parse(
        text + f"  return %y{', %e' * bool(rows)}\n}}", {"w": np.zeros((rows, columns), np.int8)}
    )
    inputs = np.ones((2, rows), np.float32), np.zeros(2, np.int32)
    for found in qir.compile(graph, check=inputs)(*inputs):
        assert np.array_equal(found, np.zeros((2, columns)))
