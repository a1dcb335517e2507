"""wer: words that a recognizer gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import numpy as np

from qir.errors import QirError, kind_of
from qir.metrics.libraries import library
from qir.metrics.registry import Answers, Metric, metric


@metric("wer")
class WordErrorRate(Metric):
    """Substituted, deleted and inserted words over those that were spoken, by jiwer.

    Outputs are scores [samples, places, vocabulary], of which the greatest counts, or token ids
    [samples, places]. Targets are a text for each sample.

    Args:
        vocabulary: What each id stands for, put together as it is, so that one of them has the
            blank between words; a text has a character for each id.
        blank: The id that means nothing. Where it is given, equal ids side by side are one, as in
            connectionist temporal classification (Graves et al., 2006).
        decode: In Python, a function from the output of a batch to a text for each sample, instead
            of a vocabulary.
    """

    vocabulary: str | tuple[str, ...] = ()
    blank: int | None = None
    decode: Any = None

    def check(self) -> None:
        """Raises QirError unless outputs can be made texts, in one way."""
        if bool(self.vocabulary) == (self.decode is not None):
            raise QirError(
                'wer: expected a vocabulary, as wer(vocabulary="_ abc", blank=0), or '
                "WordErrorRate(decode=function) in Python, got "
                + ("both" if self.vocabulary else "neither")
            )
        if self.decode is not None and not callable(self.decode):
            raise QirError(f"wer: expected decode to be a function, got {kind_of(self.decode)}")
        if self.blank is not None and self.decode is not None:
            raise QirError("wer: expected blank with a vocabulary, got it with decode")

    def prepare(self) -> None:
        """Raises QirError where jiwer is not installed."""
        library("jiwer", "jiwer")

    def __str__(self) -> str:
        return self.name

    def part(self, answers: Answers) -> tuple[int, int]:
        """Keeps how many words of a batch are wrong, and how many were spoken."""
        process = library("jiwer", "jiwer").process_words
        said = self._texts(answers)
        spoken = self._spoken(answers.targets, len(said))
        if not spoken:
            return 0, 0
        found = process(spoken, said)
        return (
            found.substitutions + found.deletions + found.insertions,
            found.substitutions + found.deletions + found.hits,
        )

    def total(self, parts: Sequence[tuple[int, int]]) -> float:
        """Returns the rate."""
        words = sum(part[1] for part in parts)
        return sum(part[0] for part in parts) / words if words else nan

    def _spoken(self, targets: Any, count: int) -> list[str]:
        texts = [targets] if isinstance(targets, str) else list(targets)
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None or len(texts) != count:
            got = f"{len(texts)}" if wrong is None else f"{kind_of(wrong)} among them"
            raise QirError(f"expected a text for each of {count} samples as targets, got {got}")
        return [str(text) for text in texts]

    def _texts(self, answers: Answers) -> list[str]:
        if self.decode is not None:
            return [str(text) for text in self.decode(answers.output)]
        output = answers.output
        if output.ndim == 3:
            if output.shape[-1] != len(self.vocabulary):
                raise QirError(
                    f"expected scores of {len(self.vocabulary)} tokens, as the vocabulary has, got "
                    f"{output.shape[-1]}"
                )
            chosen = np.where(np.isnan(output).any(-1), -1, np.argmax(output, -1))
        elif output.ndim == 2 and output.dtype.kind in "iu":
            chosen = output
        else:
            raise QirError(
                "expected scores [samples, places, vocabulary], or ids [samples, places], got "
                f"{output.dtype}{list(output.shape)}"
            )
        return [self._text(row.tolist()) for row in chosen]

    def _text(self, ids: list[int]) -> str:
        if self.blank is not None:
            ids = [id for number, id in enumerate(ids) if not number or id != ids[number - 1]]
        # What is no number is no word: it can't be right.
        return "".join(
            self.vocabulary[id] if 0 <= id < len(self.vocabulary) else "\ufffd"
            for id in ids
            if id != self.blank
        )
