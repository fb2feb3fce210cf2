"""Train a byte-pair vocabulary: text -> merges -> a tokenizer.

Each distinct word is stored and counted once. The counts of pairs are kept up to date from the
places that a merge changes, and a heap that is corrected late finds the next merge.
"""

import heapq
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat

import regex

from jaxgpt.config import MOST_IDS
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.tokenization.bpe_tokenizer import BPETokenizer
from jaxgpt.tokenization.gpt2_vocabulary import GPT2_PATTERN
from jaxgpt.tokenization.vocabulary import END_OF_TEXT, PROBE, to_utf8

Pair = tuple[int, int]
Progress = Callable[[int, int], object]

MERGES = "learning merges"  # what `progress` counts, for whoever shows it

_GONE = -1  # in place of a token that became part of the one before it


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = GPT2_PATTERN,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    strict: bool = False,
    progress: Progress | None = None,
) -> BPETokenizer:
    """Learn a byte-pair vocabulary (Sennrich et al. 2016) over bytes, as GPT-2 did.

    Ids 0 to 255 are the bytes, then come the merges in the order learnt, then the special tokens.
    Each step merges the most frequent pair of neighbours within a word; among equals, the one with
    the lowest ids. The result depends on the text alone. `texts` is read once, and what stays in
    memory is its distinct words; it should be cut between words. `progress` is told the number of
    merges learnt, and of all.

    Raises ConfigError for a `vocab_size` without room for the bytes and the special tokens, or
    beyond a million, special tokens that are empty or not distinct, or a pattern that does not
    compile or leaves out characters; DataError for no text, a lone surrogate, or, if `strict`, too
    little text for that many merges (otherwise a warning, and a smaller vocabulary).
    """
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise ConfigError(
            f"vocab_size is {vocab_size}; it must be {smallest} or more, for 256 bytes "
            f"and the special tokens ({len(special_tokens)})"
        )
    if vocab_size > MOST_IDS:
        raise ConfigError(
            f"vocab_size is {str(vocab_size)[:20]}; it must be {MOST_IDS:,} or less, as no text "
            "needs more"
        )
    if "" in special_tokens or len(set(special_tokens)) != len(special_tokens):
        raise ConfigError(f"special_tokens {list(special_tokens)} has an empty token or one twice")
    words = count_words(texts, pattern)
    if not words:
        raise DataError("there is no text to train a vocabulary on; give at least a word")
    merges = learn_merges(words, vocab_size - smallest, progress)
    if len(merges) < vocab_size - smallest:
        message = (
            f"the text is too small for vocab_size {vocab_size}: every word is a token at "
            f"{smallest + len(merges)}; give more text or ask for a smaller vocabulary"
        )
        if strict:
            raise DataError(message)
        warnings.warn(message, stacklevel=2)
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    ranks = {token: rank for rank, token in enumerate(tokens)}
    specials = {token: len(ranks) + offset for offset, token in enumerate(special_tokens)}
    return BPETokenizer("bpe", pattern, ranks, specials)


def count_words(texts: Iterable[str], pattern: str = GPT2_PATTERN) -> Counter[bytes]:
    """How often each word, cut by `pattern`, occurs in `texts`."""
    try:
        words = regex.compile(pattern)
    except regex.error as error:
        raise ConfigError(f"the pattern {pattern!r} does not compile: {error}") from error
    if "".join(match[0] for match in words.finditer(PROBE)) != PROBE:
        raise ConfigError(
            f"the pattern {pattern!r} leaves out characters, which would be lost; end it with |. "
            "under the flag (?s), or with |\\s+|[^\\s]+"
        )
    counts: Counter[str] = Counter()
    for text in texts:
        to_utf8(text)
        counts.update(match[0] for match in words.finditer(text))
    return Counter({word.encode(): count for word, count in counts.items()})


def learn_merges(
    words: Mapping[bytes, int], number: int, progress: Progress | None = None
) -> list[Pair]:
    """The first `number` merges, or as many as the words have, as pairs of ids.

    The k-th makes the token with id 256 + k. `progress` is told how many there are, and may be.
    """
    spelling = _Spelling(words)
    heap = [(-count, pair) for pair, count in spelling.counts.items()]
    heapq.heapify(heap)

    merges: list[Pair] = []
    while heap and len(merges) < number:
        claimed, pair = heapq.heappop(heap)
        # A pair's count can only fall once it is on the heap, so a stale entry comes up too early
        # and goes back with its true count.
        count = spelling.counts[pair]
        if count != -claimed:
            if count:
                heapq.heappush(heap, (-count, pair))
            continue
        for new in spelling.merge(pair, 256 + len(merges)):
            heapq.heappush(heap, (-spelling.counts[new], new))
        merges.append(pair)
        if progress is not None:
            progress(len(merges), number)
    return merges


class _Spelling:
    """The tokens of all words, one word after another, each linked to its neighbours.

    A merge then costs what it changes, however long the words are. `counts` holds how often each
    pair of neighbours occurs, weighted by the words, and `_where` the places where one began.
    """

    def __init__(self, words: Mapping[bytes, int]) -> None:
        self.counts: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, array[int]] = defaultdict(lambda: array("q"))
        self._ids, self._weight = array("q"), array("q")
        self._before, self._after = array("q"), array("q")  # -1 at the ends of a word
        for word, count in words.items():
            first, last = len(self._ids), len(self._ids) + len(word) - 1
            self._ids.extend(word)
            self._weight.extend(repeat(count, len(word)))
            if word:
                self._before.extend((-1, *range(first, last)))
                self._after.extend((*range(first + 1, last + 1), -1))
            for place in range(first, last):
                self._count(place)

    def merge(self, pair: Pair, token: int) -> set[Pair]:
        """Put `token` in place of each `pair`, from left to right; the pairs that came of it."""
        made: set[Pair] = set()
        for place in sorted(self._where.pop(pair)):
            other = self._after[place]
            # Places are not struck out when one of their tokens becomes part of another.
            if other < 0 or (self._ids[place], self._ids[other]) != pair:
                continue
            before, after = self._before[place], self._after[other]
            for left in (before, place, other):
                self._discount(left)
            self._ids[place], self._ids[other] = token, _GONE
            self._after[place] = after
            if after >= 0:
                self._before[after] = place
            for left in (before, place):
                if left >= 0 and self._after[left] >= 0:
                    made.add(self._count(left))
        return {new for new in made if self.counts[new]}

    def _count(self, left: int) -> Pair:
        pair = self._ids[left], self._ids[self._after[left]]
        self.counts[pair] += self._weight[left]
        self._where[pair].append(left)
        return pair

    def _discount(self, left: int) -> None:
        if left >= 0 and (right := self._after[left]) >= 0:
            self.counts[self._ids[left], self._ids[right]] -= self._weight[left]
