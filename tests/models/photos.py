"""The 20 photos of ImageNet that the package foolbox holds; install it with `--no-deps`."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qir.types import Array

SIDE = 224


@cache
def photos() -> Array:
    """The photos as EfficientNet-lite takes them, float32[20, 3, 224, 224].

    The shorter side is scaled to 256 and the middle is cut out; numbers are (x - 127) / 128.
    """
    image: Any = pytest.importorskip("PIL.Image")
    pictures = [image.open(path).convert("RGB") for path in files()]
    return np.stack([_prepared(image, picture) for picture in pictures]).transpose(0, 3, 1, 2)


def labels() -> list[int]:
    """The classes of the photos, which their names tell."""
    return [int(path.stem.split("_")[-1]) for path in files()]


def files() -> list[Path]:
    """The files of the photos by their numbers; skips the test where the package is absent."""
    spec = find_spec("foolbox")  # importing it would take what it depends on
    if spec is None or spec.origin is None:
        pytest.skip("the package foolbox is absent")
    return sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))


def _prepared(image: Any, picture: Any) -> Array:
    factor = 256 / min(picture.size)
    width, height = (round(size * factor) for size in picture.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    scaled = picture.resize((width, height), image.Resampling.BICUBIC)
    cut = scaled.crop((left, top, left + SIDE, top + SIDE))
    return (np.asarray(cut, np.float32) - 127) / 128
