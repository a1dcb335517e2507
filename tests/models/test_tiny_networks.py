"""MLPerf Tiny's trained networks in eight bits, on real input that they were not calibrated on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from qir.types import Array
from tests.models.accuracy import Figures, decibels, measure, wide_products
from tests.models.photos import files
from tests.models.tflite_network import read
from tests.models.tiny_networks import FOLDER, NETWORKS
from tests.models.trained_files import trained_file

pytestmark = pytest.mark.slow

LEAST = {"ResNet-8": 30.0, "KWS": 33.0, "VWW": 26.0, "AD": 44.0}
"""Decibels of the numbers before the softmax, or of the output where there is none."""


@cache
def network(name: str, *, softmax: bool = False) -> Callable[[jax.Array], jax.Array]:
    found = NETWORKS[name]
    path = trained_file(f"{FOLDER}/{found.file}")
    return read(path, softmax=softmax or not found.classifies)


@cache
def measured(name: str) -> Figures:
    calibration, held_out = NETWORKS[name].parts()
    return measure(network(name), [(calibration,)], (held_out,))


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_that_it_was_not_calibrated_on_keep_their_numbers(name):
    found = measured(name)
    print(f"{name}: {found}")
    assert wide_products(found.graph) == []
    assert found.floats == ()
    assert found.differing == 0
    assert found.decibels >= LEAST[name], str(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_float_is_what_the_file_means(name):
    runtime: Any = pytest.importorskip("ai_edge_litert.interpreter")
    found = NETWORKS[name]
    inputs = found.inputs()[::4]
    program = runtime.Interpreter(str(trained_file(f"{FOLDER}/{found.file}")))
    program.allocate_tensors()
    (start,), (end,) = program.get_input_details(), program.get_output_details()
    rows = []
    for row in inputs:
        program.set_tensor(start["index"], row[None])
        program.invoke()
        rows.append(program.get_tensor(end["index"])[0])
    outputs: Array = np.asarray(network(name, softmax=True)(jax.numpy.asarray(inputs)))
    wanted = np.stack(rows)
    # That runtime rounds what weights of eight bits multiply, and some of this file's are.
    least = 20.0 if name == "KWS" else 80.0
    assert float(decibels(wanted.reshape(-1), outputs.reshape(-1))) >= least


def test_the_float_model_of_pictures_is_the_trained_one():
    """Wrong weights or colours would leave it next to none of the 20."""
    _, held_out = NETWORKS["ResNet-8"].parts()
    outputs: Array = np.asarray(network("ResNet-8")(jax.numpy.asarray(held_out)))
    names = sorted(files()[0].parent.glob("cifar10_*.png"))
    labels = [int(path.stem.split("_")[-1]) for path in names]
    assert np.sum(outputs.argmax(-1) == labels) >= 18
