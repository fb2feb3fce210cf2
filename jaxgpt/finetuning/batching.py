"""Rows of many lengths -> padded batches, in an order that depends on nothing but the seed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Int32, Integer

from jaxgpt.data.batches import shuffled
from jaxgpt.errors import ConfigError, DataError

Example = TypeVar("Example")
Collated = TypeVar("Collated")

TooLong = Literal["refuse", "truncate"]
"""What becomes of a text that is longer than the context: an error, or its beginning."""

_LEAST_WIDTH = 16


def is_too_long(
    where: str,
    length: int,
    context_length: int,
    too_long: TooLong,
    advice: str = "shorten the record, take a model with a longer context",
) -> bool:
    """Whether a text is to be cut to the context; raises DataError if it is to be refused."""
    if length > context_length and too_long == "refuse":
        raise DataError(
            f"{where}: {length} tokens are longer than context_length {context_length}; {advice}, "
            "or set too_long to truncate"
        )
    return length > context_length


def bucket_widths(longest: int) -> list[int]:
    """The widths that batches are padded to: 16, 24, 32, 48, 64, 96 ... and `longest`.

    A function is compiled once for each, so they are few; at most a third of a batch's longest row
    is padding.
    """
    powers = range(_LEAST_WIDTH.bit_length() - 1, longest.bit_length())
    widths = [width for power in powers for width in (1 << power, 3 << power >> 1)]
    return [width for width in widths if width < longest] + [longest]


def pad(
    rows: Sequence[Integer[np.ndarray, " _"]], filling: int, widths: Sequence[int] | None = None
) -> Int32[np.ndarray, "B T"]:
    """The rows, filled up on the right to the first of `widths` that holds all, or the longest."""
    longest = max(map(len, rows))
    width = longest if widths is None else next(width for width in widths if width >= longest)
    padded = np.full((len(rows), width), filling, np.int32)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded


@dataclass(frozen=True, eq=False)
class Rows(Generic[Example, Collated]):
    """Examples in batches that `collate` makes of them, for training and for evaluation.

    `filler` is an example that counts for nothing; it fills up the last batch of an evaluation.
    Raises DataError for no example.
    """

    examples: Sequence[Example]
    collate: Callable[[Sequence[Example]], Collated]
    filler: Example

    def __post_init__(self):
        if not self.examples:
            raise DataError("there is no record to make a batch of; give at least one")

    def __len__(self) -> int:
        return len(self.examples)

    def then(self, function: Callable[[Collated], Collated]) -> "Rows[Example, Collated]":
        """The same batches, each as `function` makes it."""
        return replace(self, collate=lambda some: function(self.collate(some)))

    def with_examples(self, examples: Sequence[Example]) -> "Rows[Example, Collated]":
        """Other examples, collated in the same way."""
        return replace(self, examples=examples)

    def batch(self, first: int, batch_size: int, *, seed: int) -> Collated:
        """The batch from row `first` of the order (`shuffled`); raises ConfigError for no rows."""
        self._check(batch_size)
        indices = shuffled(len(self), first, batch_size, seed=seed)
        return self.collate([self.examples[i] for i in indices])

    def in_order(self, batch_size: int) -> Iterator[Collated]:
        """All examples from first to last, each once, in batches of as many; raises as `batch`."""
        self._check(batch_size)
        for first in range(0, len(self), batch_size):
            some = list(self.examples[first : first + batch_size])
            yield self.collate(some + [self.filler] * (batch_size - len(some)))

    def _check(self, batch_size: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
