"""EfficientNet-lite0 with its trained weights in eight bits, on photos."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax
import numpy as np
import pytest

import qir
from qir.types import Array
from tests.models.accuracy import Figures, decibels, measure, wide_products
from tests.models.onnx_network import read
from tests.models.photos import labels, photos
from tests.models.trained_files import trained_file

pytestmark = pytest.mark.slow

LEAST = 21.5
"""Decibels on photos that it was not calibrated on."""
LEAST_WIDE = 26.5
"""The same with activations of 16 bits."""
FILE = "models/efficientnet_lite0.onnx"


@cache
def network() -> Callable[[jax.Array], jax.Array]:
    return read(trained_file(FILE))


@cache
def measured() -> Figures:
    """Calibrates on ten photos and measures on the other ten."""
    calibration, held_out = np.split(photos(), 2)
    return measure(network(), [(calibration,)], (held_out,))


def test_photos_that_it_was_not_calibrated_on_keep_their_numbers():
    found = measured()
    print(f"EfficientNet-lite0: {found}")
    assert wide_products(found.graph) == []
    assert found.floats == ()
    assert found.differing == 0
    assert found.decibels >= LEAST, str(found)


def test_activations_of_sixteen_bits_keep_more():
    calibration, held_out = np.split(photos(), 2)
    graph = qir.from_jax(network(), held_out)
    integer = qir.quantize(graph, [(calibration,)], "w8a16", accuracy_check=False)
    (found,) = qir.compile(integer)(held_out)
    ratio = decibels(answering(held_out).reshape(-1), np.asarray(found).reshape(-1))
    print(f"EfficientNet-lite0, w8a16: {ratio:.1f} dB")
    assert ratio >= LEAST_WIDE


def test_every_photo_has_the_answer_of_float():
    calibration, _ = np.split(photos(), 2)
    found = measured()
    (known,) = qir.compile(found.graph)(calibration)
    computed = np.concatenate([known, found.found[0]]).argmax(-1)
    np.testing.assert_array_equal(computed, answers())


def test_the_float_model_is_the_trained_one():
    """It knows 18 of the 20 photos; wrong weights or colours would leave next to none."""
    assert np.sum(answers() == labels()) == 18


def answers() -> Array:
    """The classes that float gives for the 20 photos."""
    return np.asarray(answering(photos()).argmax(-1))


def answering(pictures: Array) -> Array:
    """What float gives for photos."""
    return np.asarray(jax.jit(network())(pictures))
