"""Windows of several sources in one order: which source a row is of, and which window of it."""

import heapq
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int64, Integer

from jaxgpt.data.batches import Batch, SlidingWindows, examples_of
from jaxgpt.data.tokens import TokenSplit
from jaxgpt.errors import DataError
from jaxgpt.fields import check


class MixedWindows(SlidingWindows):
    """Windows of several sources, of which each is at any time within one row of its share.

    `parts` are the windows of each source by its name, of one context length, and `counts` how many
    rows each has of every sum(counts) rows. Each source goes through epochs of its own, in its own
    order; a row depends on nothing but the seed and its number, by whole numbers only. `tokens` are
    those of all sources one behind the other, and windows are numbered through in the same way.
    """

    def __init__(self, parts: Mapping[str, SlidingWindows], counts: Sequence[int]) -> None:
        self.names, self.parts = tuple(parts), tuple(parts.values())
        self.counts = np.array(counts, np.int64)
        self.context_length = self.parts[0].context_length
        self.stride = self.parts[0].stride
        splits = [part.tokens for part in self.parts]
        self.tokens = joined(splits)
        self._first_token = np.cumsum([0, *map(len, splits)])[:-1]
        self._first_window = np.cumsum([0, *map(len, self.parts)])
        self._source = interleave(counts)
        self._place = np.empty_like(self._source)
        for source, count in enumerate(counts):
            self._place[self._source == source] = np.arange(count)

    def __len__(self) -> int:
        return int(self._first_window[-1])

    def starts(self, indices: Integer[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """The token of `tokens` at which each of these windows begins."""
        source = np.searchsorted(self._first_window, indices, side="right") - 1
        return self._first_token[source] + (indices - self._first_window[source]) * self.stride

    def indices(self, first: int, batch_size: int, *, seed: int) -> Int64[np.ndarray, " B"]:
        """The windows of the batch from row `first` on; raises as `check_batch_size` does."""
        self.check_batch_size(batch_size)
        turns, places = np.divmod(first + np.arange(batch_size), self._source.size)
        sources = self._source[places]
        rows = turns * self.counts[sources] + self._place[places]
        indices = np.empty(batch_size, np.int64)
        for source, part in enumerate(self.parts):
            here = sources == source
            # Sources of one size must not go through their windows in step.
            own = examples_of(rows[here], len(part), seed=seed + (source << 32))
            indices[here] = self._first_window[source] + own
        return indices

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ConfigError for a size below 1, DataError if a source has not enough for it."""
        check(batch_size >= 1, f"batch_size must be at least 1, not {batch_size}")
        counts = self.counts.tolist()
        for name, part, count in zip(self.names, self.parts, counts, strict=True):
            needed = -(-batch_size * count // self._source.size)
            if needed > len(part):
                raise DataError(
                    f"{name} has {len(part)} windows of {self.context_length} tokens, "
                    f"too few for the {needed} of it in a batch of {batch_size}; give more of it, "
                    "or lower its weight, batch_size, context_length or stride"
                )

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All windows, source by source, as the windows of each give them."""
        for part in self.parts:
            yield from part.in_order(batch_size)


def joined(splits: Sequence[TokenSplit]) -> TokenSplit:
    """The tokens of several splits one behind the other."""
    return TokenSplit(
        tuple(shard for split in splits for shard in split.shards),
        sum(split.num_bytes for split in splits),
        sum(split.num_documents for split in splits),
    )


def interleave(counts: Sequence[int]) -> Int64[np.ndarray, " N"]:
    """Which source each of sum(`counts`) places is of, so that no source lags or leads by one.

    The j-th place of a source with share p falls into [floor((j - 1) / p), ceil(j / p)), and of the
    sources that may come, the one that must come first does; then at all n places each has had p n
    of them, less than one off (Baruah, Cohen, Plaxton and Varvel 1996, "Proportionate progress").
    """
    period = sum(counts)
    due = sorted(
        (place * period // count, -(-(place + 1) * period // count), source)
        for source, count in enumerate(counts)
        for place in range(count)
    )
    order, waiting, came = np.empty(period, np.int64), [], 0
    for place in range(period):
        while came < period and due[came][0] <= place:
            heapq.heappush(waiting, due[came][1:])
            came += 1
        order[place] = heapq.heappop(waiting)[1]
    return order
