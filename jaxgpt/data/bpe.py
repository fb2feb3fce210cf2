"""Train a byte-pair vocabulary: text -> merges -> a tokenizer.

Each distinct word is stored and counted once. The counts of pairs are kept up to date from the
words that a merge changes, and a heap that is corrected late finds the next merge.
"""

import heapq
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import regex

from jaxgpt.data.bpe_tokenizer import BPETokenizer
from jaxgpt.data.gpt2_vocabulary import GPT2_PATTERN
from jaxgpt.data.vocabulary import END_OF_TEXT, to_utf8
from jaxgpt.errors import ConfigError, DataError

Pair = tuple[int, int]


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = GPT2_PATTERN,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    strict: bool = False,
) -> BPETokenizer:
    """Learn a byte-pair vocabulary (Sennrich et al. 2016) over bytes, as GPT-2 did.

    Ids 0 to 255 are the bytes, then come the merges in the order learnt, then the special tokens.
    Each step merges the most frequent pair of neighbours within a word; among equals, the one with
    the lowest ids. The result depends on the text alone. `texts` is read once, and what stays in
    memory is its distinct words; it should be cut between words. `pattern` has to match every
    character, for what it leaves out is lost.

    Raises:
        ConfigError: a `vocab_size` without room for the bytes and the special tokens, special
            tokens that are empty or not distinct, or a pattern that does not compile.
        DataError: no text; a lone surrogate; or, if `strict`, too little text for that many merges
            (otherwise a warning, and a smaller vocabulary).
    """
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise ConfigError(
            f"vocab_size is {vocab_size}; it must be {smallest} or more, for 256 bytes "
            f"and the special tokens ({len(special_tokens)})"
        )
    if "" in special_tokens or len(set(special_tokens)) != len(special_tokens):
        raise ConfigError(f"special_tokens {list(special_tokens)} has an empty token or one twice")
    words = count_words(texts, pattern)
    if not words:
        raise DataError("there is no text to train a vocabulary on; give at least a word")
    merges = learn_merges(words, vocab_size - smallest)
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
    counts: Counter[str] = Counter()
    for text in texts:
        to_utf8(text)
        counts.update(match[0] for match in words.finditer(text))
    return Counter({word.encode(): count for word, count in counts.items()})


def learn_merges(words: Mapping[bytes, int], number: int) -> list[Pair]:
    """The first `number` merges, or as many as the words have, as pairs of ids.

    The k-th merge makes the token with id 256 + k.
    """
    spelling = [list(word) for word in words]
    frequency = list(words.values())
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for word, ids in enumerate(spelling):
        for pair in pairwise(ids):
            counts[pair] += frequency[word]
            where[pair].add(word)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)

    merges: list[Pair] = []
    while heap and len(merges) < number:
        claimed, pair = heapq.heappop(heap)
        # A pair's count can only fall once it is on the heap, so a stale entry comes up too early
        # and goes back with its true count.
        if counts[pair] != -claimed:
            if counts[pair]:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        token = 256 + len(merges)
        merges.append(pair)
        fresh: set[Pair] = set()
        for word in where.pop(pair):
            for old in pairwise(spelling[word]):
                counts[old] -= frequency[word]
            spelling[word] = _merge(spelling[word], pair, token)
            for new in pairwise(spelling[word]):
                counts[new] += frequency[word]
                if token in new:
                    where[new].add(word)
                    fresh.add(new)
        for new in fresh:
            heapq.heappush(heap, (-counts[new], new))
    return merges


def _merge(ids: list[int], pair: Pair, token: int) -> list[int]:
    """`ids` with `token` in place of each `pair`, from left to right."""
    merged: list[int] = []
    position = 0
    while position < len(ids):
        if tuple(ids[position : position + 2]) == pair:
            merged.append(token)
            position += 2
        else:
            merged.append(ids[position])
            position += 1
    return merged
