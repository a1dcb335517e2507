"""Passes, pipelines as text, and the manager that runs them."""

from qir.pipeline.context import Batch, Context, Executor
from qir.pipeline.manager import PassManager
from qir.pipeline.registry import PASSES, PIPELINES, Effect, Pass, make_pass, register
from qir.pipeline.text import Pipeline, Repeat

__all__ = [
    "Batch",
    "Context",
    "Effect",
    "Executor",
    "PASSES",
    "PIPELINES",
    "Pass",
    "PassManager",
    "Pipeline",
    "Repeat",
    "make_pass",
    "register",
]
