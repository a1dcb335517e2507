"""The inputs that programs are tried on."""

import numpy as np

import qir
from qir.observe.batches import extreme_inputs


def test_extreme_inputs_are_at_the_ends_of_types_and_codes():
    text = "graph @g(%x: u8[2], %c: i8[2]{scale=0.5, bounds=[-7, 6]}, %i: i32[2]) {\n  return %x\n}"
    low, high, _ = extreme_inputs(qir.parse(text))
    for found, ends in ((low, (0, -7, 0)), (high, (255, 6, 2))):
        for array, end in zip(found, ends, strict=True):
            np.testing.assert_array_equal(array, np.full(2, end))
