"""raise-lookups: gathers of the rows of a constant table become embeddings."""

from __future__ import annotations

from qir.ir import Builder, Value
from qir.ops import Embedding, Gather
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import rule


@rule(Gather)
def rows_of_table(y: Value, b: Builder) -> Value | None:
    """Makes an embedding of a gather of rows of weights at places that data decides."""
    match y:
        case Value(Gather(axis=0), (table, ids)):
            is_table = table.is_constant and table.type.is_float and table.type.rank > 1
            return b.emit(Embedding(), table, ids) if is_table and not ids.is_constant else None
        case _:
            return None


@register
class RaiseLookups(Raising):
    """Makes embeddings of gathers of rows of weights."""

    name = "raise-lookups"
    rules = (rows_of_table,)
