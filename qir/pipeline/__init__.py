"""Passes, pipelines as text, and the manager that runs them."""

from qir.pipeline.context import Batch, Context, Executor
from qir.pipeline.manager import PassManager
from qir.pipeline.recipes import Effective, Recipe, RecipeLike, RecipeRule
from qir.pipeline.registry import PASSES, PIPELINES, Effect, Pass, make_pass, register
from qir.pipeline.text import Pipeline, Repeat

__all__ = [
    "PASSES",
    "PIPELINES",
    "Batch",
    "Context",
    "Effect",
    "Effective",
    "Executor",
    "Pass",
    "PassManager",
    "Pipeline",
    "Recipe",
    "RecipeLike",
    "RecipeRule",
    "Repeat",
    "make_pass",
    "register",
]
