"""MLPerf Tiny's float networks, and real input for them: one part to calibrate on, one to measure.

The files lie in the folder that `QIR_TEST_DATA` names; pictures are those of the package foolbox.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from qir.types import Array
from tests.models.photos import files
from tests.models.trained_files import trained_file

FOLDER = "mlperf_tiny"
BANDS, FRAMES = 128, 5
"""Of a recording of the anomaly task: five rows in a row are one input."""

MEL_BANDS, COEFFICIENTS, WORD_FRAMES = 40, 10, 49
"""Of the keyword task: the bands of a spectrum, of whose cosine transform ten numbers are kept."""
LOUDEST = 4.0
"""The logarithm of the greatest magnitude in a recording whose samples reach 1: that of a tone of
half of it, by a window of 30 ms at 16 kHz."""
POWER_RANGE = 64
"""Decibels that the spectra of the wake word task hold in [0, 1]."""


@dataclass(frozen=True)
class TinyNetwork:
    """A network of MLPerf Tiny.

    Args:
        file: Its file.
        inputs: Returns real inputs.
        classifies: Whether it ends with a softmax.
    """

    file: str
    inputs: Callable[[], Array]
    classifies: bool = True

    def parts(self) -> tuple[Array, Array]:
        """Equal parts: the first one to calibrate on, the other to measure on."""
        inputs = self.inputs()
        half = len(inputs) // 2
        return inputs[:half], inputs[-half:]


def pictures() -> Array:
    """20 pictures of CIFAR-100, then 20 of CIFAR-10, in [0, 255], float32[40, 32, 32, 3]."""
    image: Any = pytest.importorskip("PIL.Image")
    folder = files()[0].parent
    paths = [*sorted(folder.glob("cifar100_*.png")), *sorted(folder.glob("cifar10_*.png"))]
    return np.stack([np.asarray(image.open(path)) for path in paths]).astype(np.float32)


def small_photos() -> Array:
    """The 20 photos, each whole and three squares of it, in [0, 1], float32[80, 96, 96, 3]."""
    image: Any = pytest.importorskip("PIL.Image")
    found = []
    for path in files():
        picture = image.open(path).convert("RGB")
        side = min(picture.size)
        for share, left, top in ((1, 0, 0), (0.6, 0, 0), (0.6, 0.2, 0.4), (0.8, 0.2, 0.1)):
            corners = [left, top, left + share, top + share]
            cut = picture.crop([round(side * corner) for corner in corners])
            found.append(np.asarray(cut.resize((96, 96), image.Resampling.BILINEAR)))
    return np.stack(found).astype(np.float32) / 255


def words() -> Array:
    """Cepstra of 45 recordings of words, float32[45, 49, 10, 1], one of each kind after another.

    The data holds their spectra as the wake word task has them, 30 frames of decibels, sorted by
    kind. The keyword task has 49 frames of the cosine transform of the logarithm of magnitudes,
    whose recordings are scaled to the same peak; frames between are interpolated.
    """
    with np.load(trained_file(f"{FOLDER}/calibration_samples.npz")) as arrays:
        spectra = arrays["specs"][:, :, 0].astype(np.float64)
    logarithms = np.log(10) / 20 * POWER_RANGE * spectra
    logarithms += LOUDEST - logarithms.max(axis=(1, 2), keepdims=True)
    frames = np.linspace(0, spectra.shape[1] - 1, WORD_FRAMES)
    before = np.floor(frames).astype(int).clip(max=spectra.shape[1] - 2)
    share = (frames - before)[:, None]
    between = (1 - share) * logarithms[:, before] + share * logarithms[:, before + 1]
    orders, bands = np.arange(COEFFICIENTS), np.arange(MEL_BANDS) + 0.5
    cosines = 2 * np.cos(np.pi / MEL_BANDS * bands[:, None] * orders) / np.sqrt(2 * MEL_BANDS)
    found = np.asarray(between @ cosines, np.float32)[..., None]
    return np.concatenate([found[0::2], found[1::2]])


def windows() -> Array:
    """A recording of a machine cut into inputs, float32[196, 640]."""
    path = trained_file(f"{FOLDER}/ad01_normal_id_01_00000000_hist_librosa.bin")
    rows = np.fromfile(path, np.float32).reshape(-1, BANDS)
    starts = range(len(rows) - FRAMES + 1)
    return np.stack([rows[start : start + FRAMES].reshape(-1) for start in starts])


NETWORKS = {
    "ResNet-8": TinyNetwork("pretrainedResnet.tflite", cache(pictures)),
    "KWS": TinyNetwork("kws_ref_model_float32.tflite", cache(words)),
    "VWW": TinyNetwork("vww_96_float.tflite", cache(small_photos)),
    "AD": TinyNetwork("ad01_fp32.tflite", cache(windows), classifies=False),
}
