"""Sums without rounding: whatever the order of the terms, the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError

_BITS = 32
_MASK = 2**_BITS - 1
_SIGN = 2 ** (_BITS - 1)
_MANTISSA = 53


_MOST_TERMS = 8
"""Terms that wait to be added at once, which takes a third of the time of one after another. They
take as much memory as 16 words of each sum."""


class ExactSums:
    """Sums of float64 numbers, exact: an integer of as many words as it takes for each sum.

    The words of all sums begin at one place and end at one: the lowest that any of them has and the
    highest. So they are a function of the sums alone, and `merge` is exactly associative and
    commutative. Numbers of float32, their squares and sums of 2^60 of them take at most 21 words;
    sums of like size, which is what the channels of a tensor are, take 4 or 5.

    Args:
        low: The place of the lowest word: a unit of it is 2^(32 * low).
        words: The words of two's complement, the lowest first, uint32 [words, *sizes].
    """

    def __init__(self, low: int, words: NDArray[np.uint32]) -> None:
        self._low = low
        self._words = words
        self._terms: tuple[NDArray[np.float64], ...] = ()

    @staticmethod
    def of(numbers: NDArray[np.floating[Any]]) -> ExactSums:
        """Returns sums of one term each.

        Args:
            numbers: Finite numbers of any shape.

        Raises:
            QirError: A number is NaN or infinite.
        """
        term = np.array(numbers, np.float64)
        if not np.isfinite(term).all():
            raise QirError("sums: expected finite numbers")
        return ExactSums(0, np.zeros((0, *term.shape), np.uint32))._with((term,))

    def _with(self, terms: tuple[NDArray[np.float64], ...]) -> ExactSums:
        sums = ExactSums(self._low, self._words)
        sums._terms = terms
        if len(terms) > _MOST_TERMS:
            sums._settle()
        return sums

    def _settle(self) -> None:
        if self._terms:
            added = _added(np.stack(self._terms).reshape(len(self._terms), -1), self.shape)
            whole = _merged(ExactSums(self._low, self._words), added)
            self._low, self._words, self._terms = whole._low, whole._words, ()

    @property
    def low(self) -> int:
        """The place of the lowest word; 0 where there is none."""
        self._settle()
        return self._low

    @property
    def words(self) -> NDArray[np.uint32]:
        """The words of two's complement, the lowest first, uint32 [words, *sizes]."""
        self._settle()
        return self._words

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the array of sums."""
        return self._words.shape[1:]

    @cached_property
    def array(self) -> NDArray[np.float64]:
        """The sums, within two units in the last place of float64."""
        signed = self._signed()
        total = np.zeros(self.shape, np.float64)
        for place in reversed(range(len(signed))):
            total += np.ldexp(signed[place].astype(np.float64), _BITS * (self.low + place))
        total.flags.writeable = False
        return total

    def merge(self, other: ExactSums) -> ExactSums:
        """Returns the sums of the terms of both.

        Raises:
            QirError: They are of another number of sums.
        """
        if self.shape != other.shape:
            raise QirError(f"sums: expected {list(self.shape)} of them, got {list(other.shape)}")
        base = self
        if len(other._words):
            base = _merged(ExactSums(self._low, self._words), ExactSums(other._low, other._words))
        return base._with(self._terms + other._terms)

    def take(self, indices: NDArray[np.integer[Any]]) -> ExactSums:
        """Returns some of the sums along the first axis."""
        taken = self.words[:, indices]
        return _settled(self.low, ExactSums(self.low, taken)._signed(), taken.shape[1:])

    def transpose(self, axes: Sequence[int]) -> ExactSums:
        """Returns the sums with the axes of their array in another order."""
        return ExactSums(self.low, self.words.transpose(0, *(axis + 1 for axis in axes)))

    def _signed(self) -> NDArray[np.int64]:
        words = self.words.astype(np.int64)
        if len(words):
            words[-1] = self.words[-1].view(np.int32)
        return words


def _added(terms: NDArray[np.float64], shape: tuple[int, ...]) -> ExactSums:
    """Adds terms up.

    Args:
        terms: Finite numbers [terms, sums].
        shape: The sizes of the array of sums.
    """
    flat = terms.reshape(-1)
    mantissas, exponents = np.frexp(flat)
    whole = np.ldexp(mantissas, _MANTISSA).astype(np.int64)
    if not whole.any():
        return ExactSums(0, np.zeros((0, *shape), np.uint32))
    # A zero has no place of its own.
    places = np.where(whole == 0, exponents[whole != 0].max(), exponents) - _MANTISSA
    index, shift = places >> 5, (places & (_BITS - 1)).astype(np.int64)
    low = int(index.min())
    index -= low
    words = np.zeros((int(index.max()) + 3, flat.size), np.int64)
    each = np.arange(flat.size)
    below, above = (whole & _MASK) << shift, (whole >> _BITS) << shift
    words[index, each] = below & _MASK
    words[index + 1, each] = (below >> _BITS) + (above & _MASK)
    words[index + 2, each] = above >> _BITS
    return _settled(low, words.reshape(len(words), *terms.shape).sum(axis=1), shape)


def _merged(one: ExactSums, other: ExactSums) -> ExactSums:
    """Returns the sums of both, which have no terms that wait."""
    if not len(one._words) or not len(other._words):
        return one if len(one._words) else other
    low = min(one._low, other._low)
    end = max(part._low + len(part._words) for part in (one, other))
    words = np.zeros((end - low, *one.shape), np.int64)
    for part in (one, other):
        # The top word has the sign: what lies above it needs no words.
        words[part._low - low : part._low - low + len(part._words)] += part._signed()
    return _settled(low, words, one.shape)


def _settled(low: int, words: NDArray[np.int64], shape: Sequence[int]) -> ExactSums:
    """Brings words into their range by carrying, and drops those that say nothing.

    Args:
        low: The place of the lowest word.
        words: Words [words, sums], of at most 62 bits; they are overwritten.
        shape: The sizes of the array of sums.
    """
    words = words.reshape(len(words), prod(shape))
    for index in range(len(words) - 1):
        words[index + 1] += words[index] >> _BITS
        words[index] &= _MASK
    if len(words) and np.any(words[-1] != words[-1].astype(np.int32)):
        words = np.concatenate([words, words[-1:] >> _BITS])
        words[-2] &= _MASK
    end = len(words)
    while end > 1:
        below = (words[end - 2] ^ _SIGN) - _SIGN  # as a number with a sign
        if not np.array_equal(words[end - 1], below >> _BITS):
            break
        end -= 1  # it held nothing but the sign of the word below
        words[end - 1] = below
    start = 0
    while start < end and not words[start].any():
        start += 1
    kept = (words[start:end] & _MASK).astype(np.uint32)
    return ExactSums(low + start if len(kept) else 0, kept.reshape(len(kept), *shape))
