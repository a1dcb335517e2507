"""Calibration methods: which range follows from what was seen of a tensor, one method a file."""

from qir.observe.methods.entropy import Entropy
from qir.observe.methods.method import METHODS, CalibrationMethod, calibration_method
from qir.observe.methods.minmax import MinMax
from qir.observe.methods.moving_average import MovingAverage
from qir.observe.methods.mse import MeanSquaredError
from qir.observe.methods.octav import Octav
from qir.observe.methods.percentile import Percentile

__all__ = [
    "METHODS",
    "CalibrationMethod",
    "Entropy",
    "MeanSquaredError",
    "MinMax",
    "MovingAverage",
    "Octav",
    "Percentile",
    "calibration_method",
]
