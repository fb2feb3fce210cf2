"""Tokens -> batches of sliding windows, in an order that depends on nothing but the seed.

A run can then be stopped anywhere and go on from the number of rows it had, also with other
batches, and the order is the same on any machine and for any number of processes.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt64

from jaxgpt.data.tokens import TokenSplit
from jaxgpt.errors import DataError
from jaxgpt.fields import check

IGNORE = -100  # a target that takes no part in the loss

_ROUNDS = 8


class Batch(NamedTuple):
    """Token windows and, at each place, the token that follows (or `IGNORE`)."""

    inputs: Int32[np.ndarray, "B T"]
    targets: Int32[np.ndarray, "B T"]


class SlidingWindows:
    """The windows of `context_length` tokens that begin at every `stride`-th token of a split.

    `tokens` is a split of a dataset or a plain array of ids; `stride` is `context_length` unless
    given, so that the windows touch but do not overlap. Raises ConfigError for a context length or
    stride below 1, DataError for too few tokens for one window.
    """

    def __init__(
        self,
        tokens: TokenSplit | Integer[np.ndarray, " N"],
        context_length: int,
        stride: int | None = None,
    ) -> None:
        stride = context_length if stride is None else stride
        for name, value in (("context_length", context_length), ("stride", stride)):
            check(value >= 1, f"{name} must be at least 1, not {value}")
        if isinstance(tokens, np.ndarray):
            if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
                raise DataError(
                    f"tokens must be one row of integers, not {tokens.dtype} {tokens.shape}"
                )
            tokens = TokenSplit((tokens,), num_bytes=0, num_documents=1)
        if len(tokens) < context_length + 1:
            raise DataError(
                f"{len(tokens)} tokens are too few for one window of {context_length} and the "
                f"token after it; give more text, or a context_length of at most {len(tokens) - 1}"
            )
        self.tokens = tokens
        self.context_length = context_length
        self.stride = stride

    def __len__(self) -> int:
        return (len(self.tokens) - 1 - self.context_length) // self.stride + 1

    def window(self, indices: Integer[np.ndarray, " B"]) -> Batch:
        """The windows with these indices, in [0, len(self))."""
        rows = np.empty((len(indices), self.context_length + 1), np.int32)
        for row, start in zip(rows, self.starts(indices).tolist(), strict=True):
            row[:] = self.tokens.read(start, start + self.context_length + 1)
        return Batch(rows[:, :-1], rows[:, 1:])

    def starts(self, indices: Integer[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """The token of `tokens` at which each of these windows begins."""
        return indices.astype(np.int64) * self.stride

    def batch(self, first: int, batch_size: int, *, seed: int) -> Batch:
        """The batch that begins at row `first` of the order; raises as `indices` does."""
        return self.window(self.indices(first, batch_size, seed=seed))

    def indices(self, first: int, batch_size: int, *, seed: int) -> Int64[np.ndarray, " B"]:
        """The windows of the batch from row `first` on: `shuffled`, `check_batch_size`."""
        self.check_batch_size(batch_size)
        return shuffled(len(self), first, batch_size, seed=seed)

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ConfigError for a size below 1, DataError if there are fewer windows."""
        check(batch_size >= 1, f"batch_size must be at least 1, not {batch_size}")
        if batch_size > len(self):
            raise DataError(
                f"{len(self.tokens)} tokens give {len(self)} windows of {self.context_length}, too "
                f"few for a batch of {batch_size}; give more text, or lower batch_size, "
                "context_length or stride"
            )

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All windows from first to last, each target token of the split in exactly one of them.

        For evaluation: where windows overlap, targets that an earlier window had are `IGNORE`, and
        a stride beyond `context_length` counts as `context_length`. The last window may be short
        and the last batch not full; they are padded (inputs 0, targets `IGNORE`), so that all
        batches have one shape. Raises ConfigError for a batch size below 1.
        """
        check(batch_size >= 1, f"batch_size must be at least 1, not {batch_size}")
        length, stride = self.context_length, min(self.stride, self.context_length)
        count = 1 - (length + 1 - len(self.tokens)) // stride  # windows until the last target
        for first in range(0, count, batch_size):
            inputs = np.zeros((batch_size, length), np.int32)
            targets = np.full((batch_size, length), IGNORE, np.int32)
            for row, window in enumerate(range(first, min(first + batch_size, count))):
                start = window * stride
                tokens = self.tokens.read(start, min(start + length + 1, len(self.tokens)))
                new = length - stride if window else 0
                inputs[row, : tokens.size - 1] = tokens[:-1]
                targets[row, new : tokens.size - 1] = tokens[new + 1 :]
            yield Batch(inputs, targets)


def shuffled(size: int, first: int, batch_size: int, *, seed: int) -> Int64[np.ndarray, " B"]:
    """Which of `size` examples are rows `first`, `first` + 1, ... of the order of training."""
    return examples_of(first + np.arange(batch_size), size, seed=seed)


def examples_of(
    rows: Integer[np.ndarray, " B"], size: int, *, seed: int
) -> Int64[np.ndarray, " B"]:
    """Which of `size` examples are these rows of the order of training.

    An endless sequence of epochs, each a new permutation of all examples; a batch may span two.
    """
    epochs, places = np.divmod(rows, size)
    indices = np.empty(len(rows), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = permute(places[here], size, seed=seed, epoch=int(epoch))
    return indices


def permute(
    index: Integer[np.ndarray, " N"], size: int, *, seed: int, epoch: int
) -> Int64[np.ndarray, " N"]:
    """Where a permutation of range(`size`), one for each (seed, epoch), sends each of `index`.

    A balanced Feistel network over pairs of numbers below ceil(sqrt(size)), walked again from any
    result that is not below `size` (cycle walking; Black and Rogaway 2002, "Ciphers with arbitrary
    finite domains"), with splitmix64 (Steele, Lea and Flood 2014) as its round function. It takes
    integers only, so every machine gives the same, and memory that does not grow with `size`.
    """
    side = math.isqrt(size - 1) + 1
    key = _splitmix64(_splitmix64(np.array([seed], np.uint64)) ^ np.array([epoch], np.uint64))
    round_keys = _splitmix64(key ^ np.arange(_ROUNDS, dtype=np.uint64))
    permuted = _feistel(index.astype(np.uint64), side, round_keys)
    while (outside := np.flatnonzero(permuted >= size)).size:
        permuted[outside] = _feistel(permuted[outside], side, round_keys)
    return permuted.astype(np.int64)


def _feistel(
    values: UInt64[np.ndarray, " N"], side: int, round_keys: UInt64[np.ndarray, " R"]
) -> UInt64[np.ndarray, " N"]:
    left, right = np.divmod(values, side)
    for key in round_keys:
        # 32 bits of the mix: the sum must not wrap around, or two values could meet.
        left, right = right, (left + (_splitmix64(right ^ key) >> 32)) % side
    return left * side + right


def _splitmix64(values: UInt64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    mixed = values + 0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB
    return mixed ^ (mixed >> 31)
