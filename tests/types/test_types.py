"""Element types, codes and shapes. Each constraint on a code has a test of its own."""

import numpy as np
import pytest

from qir.errors import QirError
from qir.types import (
    Affine,
    Codebook,
    Dim,
    DType,
    FrozenArray,
    TensorType,
    array_digest,
    divide,
    expand,
    format_shape,
    known,
    product,
    tensor,
)
from qir.types import arrays as qir_arrays

I4, I8, U8, I16, I32, I64, F32 = (
    DType(name) for name in ("i4", "i8", "u8", "i16", "i32", "i64", "f32")
)


def error(build, *args, **options):
    with pytest.raises(QirError) as caught:
        build(*args, **options)
    return str(caught.value)


class TestConstraints:
    """One test for each numbered constraint on Affine."""

    @pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
    def test_c1_scales_are_finite_and_positive(self, scale):
        message = f"code: C1: expected finite scales greater than 0, got {scale}"
        assert error(Affine.of, I8, [[0.5, scale]]) == message

    def test_c2_zero_points_are_within_2_to_the_16_of_0(self):
        message = "code: C2: expected a zero point within 65536 of 0, got 65537"
        assert error(Affine.of, I8, 1.0, 65537) == message
        assert not Affine.of(I8, 1.0, -(2**16)).holds_zero
        assert not Affine.of(I8, 1.0, -128, bounds=(-127, 127)).holds_zero
        assert Affine.of(I8, 1.0, -127, bounds=(-127, 127)).holds_zero
        assert error(Affine.of, I32, 1.0, 1) == "code: C2: expected a zero point of 0, got 1"
        message = "code: C2: expected zero points that are integers of 32 bits, got "
        assert error(Affine.of, I8, 1.0, 0.5) == message + "0.5"
        assert error(Affine.of, I8, 1.0, 2**32) == message + str(2**32)

    @pytest.mark.parametrize("bounds", [(-129, 0), (0, 128), (3, 3), (4, 3)])
    def test_c3_bounds_are_inside_the_storage_type(self, bounds):
        message = "code: C3: expected bounds inside [-128, 127], lower before upper, got "
        assert error(Affine.of, I8, 1.0, bounds=bounds) == message + str(list(bounds))

    @pytest.mark.parametrize("counts", [(3,), (3, 1), (1, 8), (2, 3), (0, 1)])
    def test_c4_scales_divide_the_shape(self, counts):
        code = Affine.of(I8, np.arange(2.0, 2 + np.prod(counts)).reshape(counts))
        message = "code: C4: expected a scalar scale or one whose dimensions divide [2,4], got "
        assert error(TensorType, (2, 4), code) == f"{message}a scale of shape {list(counts)}"

    def test_c4_a_named_dimension_has_one_scale(self):
        code = Affine.of(I8, [[0.5], [0.25]])
        assert "C4" in error(TensorType, (Dim.named("B"), 4), code)
        assert TensorType((2, Dim.named("B")), code).quant == code

    def test_c4_nothing_has_no_scales_of_its_own(self):
        code = Affine.of(I8, [[0.5], [0.25]])
        assert "C4" in error(TensorType, (0, 4), code)
        assert TensorType((2, 0), code).quant == code

    def test_c5_zero_points_have_the_shape_of_the_scale(self):
        message = "code: C5: expected zero points of the scale's shape [1, 2], got [2]"
        assert error(Affine.of, I8, [[0.5, 0.25]], [1, 2]) == message

    def test_c6_storage_is_integer_and_expressed_is_float(self):
        message = "code: C6: expected an integer storage type and a floating-point expressed type, "
        assert error(Affine.of, F32, 1.0) == message + "got f32 and f32"
        assert error(Affine.of, I8, 1.0, expressed=I8) == message + "got i8 and i8"

    def test_c7_scales_of_few_bits_have_normal_inverses(self):
        message = "code: C7: expected scales between 2^-125 and 2^125, got 1.1754944e-38"
        assert error(Affine.of, I16, 2.0**-126) == message
        assert "C7" in error(Affine.of, I16, 2.0**126)
        for scale in (2.0**-125, 2.0**125):
            assert np.isfinite(Affine.of(I16, scale).inverse_scale)
        Affine.of(I32, 2.0**-250)

    @pytest.mark.parametrize("levels", [[1], range(17)])
    def test_c8_levels_increase_and_fit_the_storage(self, levels):
        message = "code: C8: expected 2 to 16 distinct levels of float32 in storage of at most 8 "
        assert error(Codebook.of, I4, 1.0, list(levels)).startswith(message)

    def test_c8_levels_are_stored_in_8_bits(self):
        assert "C8" in error(Codebook.of, I16, 1.0, [0, 1])

    @pytest.mark.parametrize("multipliers", [[[0.5]], [[0]], [[256]], [[-1]], [[np.nan]]])
    def test_c9_multipliers_are_integers_of_8_bits(self, multipliers):
        message = "code: C9: expected multipliers that are integers from 1 to 255, in storage of "
        assert error(Affine.of, I8, 1.0, multipliers=multipliers).startswith(message)
        assert "C9" in error(Affine.of, I32, 1.0, multipliers=[[2]])

    @pytest.mark.parametrize("counts", [(2,), (3, 1), (1, 8)])
    def test_c9_multipliers_have_the_rank_and_divide_the_shape(self, counts):
        code = Affine.of(I8, 1.0, multipliers=np.full(counts, 2))
        message = "code: C9: expected multipliers whose dimensions divide [2,4], got an array of "
        assert error(TensorType, (2, 4), code) == f"{message}shape {list(counts)}"

    @pytest.mark.parametrize("levels", [[2, 1], [0, 0], [[0, 1]], [0, 2**15], [0.0, np.inf]])
    def test_c10_levels_of_codebooks_increase(self, levels):
        message = "code: C10: expected finite increasing levels, integers within 32767 of 0, got "
        assert error(Codebook.of, I4, 1.0, levels).startswith(message)


class TestCodes:
    def test_equal_codes_are_equal_however_they_are_built(self):
        assert Affine.of(I8, 0.1) == Affine.of(I8, np.float32(0.1)) == Affine.of(I8, [[0.1]], [[0]])
        assert Affine.of(I8, 0.1, bounds=(-128, 127)) == Affine.of(I8, 0.1)
        assert Affine.of(I8, [0.1, 0.2], [3, 3]) == Affine.of(I8, [0.1, 0.2], 3)
        assert len({Affine.of(I8, 0.1), Affine.of(I8, 0.1), Affine.of(U8, 0.1)}) == 2

    def test_scales_are_kept_as_float32_and_products_as_float64(self):
        assert Affine.of(I8, 0.1).scale.array.dtype == np.float32
        code = Affine.of(I32, np.float64(np.float32(0.1)) * np.float32(0.3))
        assert float(code.scale.array) == float(np.float32(0.1)) * float(np.float32(0.3))

    def test_encode_rounds_half_to_even_and_saturates(self):
        code = Affine.of(I8, 0.5, -3, bounds=(-100, 100))
        real = [0.0, 0.25, 0.75, -0.25, 1e30, -1e30, np.inf, -np.inf, np.nan, 1e-45]
        stored = [-3, -3, -1, -3, 100, -100, 100, -100, -3, -3]
        assert code.encode(real).tolist() == stored
        assert code.encode(real).dtype == np.int8

    def test_decode_is_one_float32_product(self):
        code = Affine.of(U8, 0.1, 128)
        expected = np.float32(0.1) * np.array([-128, 0, 127], np.float32)
        assert code.decode(np.array([0, 128, 255], np.uint8)).tolist() == expected.tolist()
        half = Affine.of(U8, 0.1, expressed=DType.F16).decode([1])
        assert half.tolist() == [np.float16(0.1)]
        assert half.dtype == np.float16

    def test_per_channel(self):
        code = Affine.of(I8, [[1.0, 0.5]], [[0, 10]])
        assert (code.axis, code.per_tensor) == (1, False)
        assert code.encode([[3.0, 3.0], [200.0, -100.0]]).tolist() == [[3, 16], [127, -128]]
        assert code.decode([[3, 16]]).tolist() == [[3.0, 3.0]]

    def test_per_block(self):
        code = Affine.of(I4, [[1.0], [0.5]])
        stored = code.encode([[1.0], [2.0], [1.0], [2.0]])
        assert stored.tolist() == [[1], [2], [2], [4]]
        assert code.decode(stored).tolist() == [[1.0], [2.0], [1.0], [2.0]]
        assert Affine.of(I4, np.ones((2, 2))).axis is None

    def test_wide_storage_divides_in_float64(self):
        code = Affine.of(I32, 2.0**-30)
        real = [1 + 2.0**-30, 5.0, -5.0, np.nan]
        assert code.encode(real).tolist() == [2**30 + 1, 2**31 - 1, -(2**31), 0]
        assert Affine.of(I64, 1.0).encode([1e30, -1e30]).tolist() == [2**63 - 1024, -(2**63)]

    def test_codebook(self):
        code = Codebook.of(I4, 0.5, [-9, -1, 0, 8])
        assert code.range == (-8, -5)
        assert code.decode([-8, -7, -6, -5]).tolist() == [-4.5, -0.5, 0.0, 4.0]
        # 2.0 is level 4, halfway between the levels 0 and 8: the lower one.
        real = [-100.0, -0.5, 0.1, 2.0, 2.01, np.inf, np.nan]
        assert code.encode(real).tolist() == [-8, -7, -6, -6, -5, -5, -6]

    def test_map_arrays_leaves_scalars_alone(self):
        code = Affine.of(I8, [[1.0, 0.5]], [[0, 10]]).map_arrays(np.transpose)
        assert code == Affine.of(I8, [[1.0], [0.5]], [[0], [10]])
        assert Affine.of(I8, 0.5).map_arrays(np.transpose) == Affine.of(I8, 0.5)

    def test_expand_repeats_what_neither_broadcasts_nor_fits(self):
        factors = np.array([[1.0, 2.0]])
        assert expand(factors, (3, 2)) is factors
        assert expand(factors, (3, 4)).tolist() == [[1.0, 1.0, 2.0, 2.0]]


class TestDimensions:
    B, N = Dim.named("B"), Dim.named("N")

    def test_products_are_equal_in_any_order(self):
        assert self.B * self.N * 4 == 2 * self.N * 2 * self.B
        assert self.B * self.N != self.B * self.B
        assert product((self.B, 8, 8, self.N)) == 64 * self.N * self.B
        assert product(()) == 1
        assert self.B * 0 == 0

    def test_division_is_exact_or_an_error(self):
        assert divide(self.B * 12, 4) == self.B * 3
        assert divide(self.B * self.N * 12, self.N * 12) == self.B
        assert divide(self.B, self.B) == 1
        assert divide(12, 4) == 3
        assert error(divide, self.B * 3, 2) == "dimension: 3*B is not a multiple of 2"
        assert error(divide, self.B, self.N) == "dimension: B is not a multiple of N"
        assert error(divide, 7, 2) == "dimension: 7 is not a multiple of 2"
        assert error(divide, 7, self.B) == "dimension: 7 is not a multiple of B"
        assert error(divide, 7, 0) == "dimension: 7 is not a multiple of 0"

    def test_a_name_is_no_number(self):
        message = "mean over axis 0: expected a known size, got the named dimension 2*B"
        assert error(known, self.B * 2, "mean over axis 0") == message
        assert known(3, "mean") == 3
        assert "known size" in error(lambda: TensorType((self.B,), F32).known_shape)

    def test_spelling(self):
        assert format_shape((self.B, 8, self.B * self.B * 3)) == "[B,8,3*B*B]"


class TestTypes:
    def test_dtype_bounds_and_bits(self):
        assert [(d.bits, *d.bounds) for d in (I4, U8)] == [(4, -8, 7), (8, 0, 255)]
        assert DType.BOOL.bits == 1
        assert not DType.BOOL.is_integer
        assert error(lambda: F32.bounds) == "type: expected an integer type, got f32"

    def test_of_numpy(self):
        assert DType.of(np.float32) is F32
        assert all(DType.of(d.numpy) is d for d in DType if d.bits >= 8 or d is DType.BOOL)
        assert error(DType.of, np.complex64).endswith("got complex64")
        assert tensor(np.zeros((2, 3), np.int8)) == TensorType((2, 3), I8)

    def test_parts_of_a_type(self):
        code = Affine.of(I8, 0.5, 3)
        type = TensorType((2, Dim.named("B")), code)
        assert (type.dtype, type.quant, type.rank, str(type.size)) == (I8, code, 2, "2*B")
        assert not type.is_float
        assert str(type) == "i8[2,B]{scale=0.5, zp=3}"
        assert type.with_element(F32).is_float
        assert type.with_shape(7) == TensorType((7,), code)

    def test_frozen_arrays_are_equal_by_content(self):
        a = FrozenArray([1.0, 2.0])
        assert a == FrozenArray(np.array([1.0, 2.0]))
        assert hash(a) == hash(FrozenArray([1.0, 2.0]))
        assert a != FrozenArray([1.0, 2.0], np.float32)
        assert FrozenArray([0.0]) != FrozenArray([-0.0])
        with pytest.raises(ValueError, match="read-only"):
            a.array[0] = 3

    def test_digests_name_dtype_shape_and_bytes(self):
        arrays = [np.zeros(4, np.int8), np.zeros(4, np.uint8), np.zeros((2, 2), np.int8)]
        assert len({array_digest(array) for array in arrays}) == 3
        assert array_digest(np.zeros((2, 4), np.int8)[:, ::2]) == array_digest(arrays[2])

    def test_arrays_by_reference_are_equal_where_the_bytes_are(self):
        array = np.arange(1000, dtype=np.float32).reshape(10, 100)
        frozen = FrozenArray.by_reference
        assert np.shares_memory(frozen(array).array, array)
        assert frozen(array) == frozen(array.copy()) == FrozenArray(array)
        assert hash(frozen(array.T)) == hash(frozen(array.T.copy()))
        negative = np.where(array == 0, np.float32(-0.0), array)
        others = [array.T, array.reshape(1000), array.view(np.int32), negative]
        assert all(frozen(array) != frozen(other) for other in others)
        assert frozen(np.zeros((), np.int8)).array.shape == ()
        with pytest.raises(ValueError, match="read-only"):
            frozen(array).array[0] = 3

    def test_arrays_of_one_hash_are_told_apart(self):
        for size in (1_000, 10_000):
            array = np.zeros(size, np.int8)
            other = array.copy()
            other[1] = 1
            frozen = [FrozenArray.by_reference(each) for each in (array, other, array.copy())]
            assert hash(frozen[0]) == hash(frozen[1])
            assert len(set(frozen)) == 2

    def test_a_digest_is_computed_where_equality_depends_on_it_only(self, monkeypatch):
        asked = []

        def digest(array):
            asked.append(array)
            return ""

        monkeypatch.setattr(qir_arrays, "array_digest", digest)
        first, second, third = (
            FrozenArray.by_reference(np.full(10_000, number)) for number in (1, 2, 1)
        )
        assert first == FrozenArray.by_reference(first.array)
        assert first != second
        assert len({first, second}) == 2
        assert not asked
        assert first == third
        assert first == third
        assert len(asked) == 2
