"""Metrics: how good and how costly programs are, one metric a file."""

from qir.metrics.accuracy import ClassAccuracy
from qir.metrics.classes import ClassMetric
from qir.metrics.confusion import Confusion
from qir.metrics.cosine import CosineSimilarity
from qir.metrics.detection import DetectionPrecision
from qir.metrics.f1 import F1
from qir.metrics.latency import Latency
from qir.metrics.mae import MeanAbsoluteError
from qir.metrics.mean_average_precision import MeanAveragePrecision
from qir.metrics.peak_memory import PeakMemory
from qir.metrics.perplexity import Perplexity
from qir.metrics.precision import Precision
from qir.metrics.recall import Recall
from qir.metrics.registry import METRICS, Answers, CostMetric, Measured, Metric, metric
from qir.metrics.rmse import RootMeanSquareError
from qir.metrics.size import SavedSize
from qir.metrics.sqnr import SignalToNoise
from qir.metrics.throughput import Throughput
from qir.metrics.top_k import TopAccuracy
from qir.metrics.word_error_rate import WordErrorRate

__all__ = [
    "F1",
    "METRICS",
    "Answers",
    "ClassAccuracy",
    "ClassMetric",
    "Confusion",
    "CosineSimilarity",
    "CostMetric",
    "DetectionPrecision",
    "Latency",
    "MeanAbsoluteError",
    "MeanAveragePrecision",
    "Measured",
    "Metric",
    "PeakMemory",
    "Perplexity",
    "Precision",
    "Recall",
    "RootMeanSquareError",
    "SavedSize",
    "SignalToNoise",
    "Throughput",
    "TopAccuracy",
    "WordErrorRate",
    "metric",
]
