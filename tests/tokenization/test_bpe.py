import random
import time
import tracemalloc
import warnings
from collections import Counter
from itertools import pairwise

import pytest
import regex

from jaxgpt.errors import ConfigError, DataError
from jaxgpt.tokenization.bpe import count_words, learn_merges, train_bpe
from jaxgpt.tokenization.gpt2_vocabulary import GPT2_PATTERN


def slow_merges(text: list[str], number: int) -> list[tuple[int, int]]:
    """The definition, word for word: count all pairs anew before each merge."""
    words = [list(word.encode()) for word in text]
    merges = []
    for token in range(256, 256 + number):
        counts = Counter((a, b) for word in words for a, b in pairwise(word))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for index, word in enumerate(words):
            joined, i = [], 0
            while i < len(word):
                hit = tuple(word[i : i + 2]) == best
                joined.append(token if hit else word[i])
                i += 2 if hit else 1
            words[index] = joined
    return merges


def test_a_vocabulary_worked_out_by_hand():
    # Words: "low", " low" x 2, " lower". Pairs: lo and ow 4, " l" 3, we and er 1. The ids of l, o
    # are 108, 111 and those of o, w are 111, 119: lo wins the tie, then lo+w (4), then " "+low (3).
    tokenizer = train_bpe(["low low low lower"], 256 + 5 + 1)
    assert {token: rank for token, rank in tokenizer.ranks.items() if rank >= 256} == {
        b"lo": 256,
        b"low": 257,
        b" low": 258,
        b"er": 259,
        b" lower": 260,
    }
    assert tokenizer.special_tokens == {"<|endoftext|>": 261}
    assert (tokenizer.vocab_size, tokenizer.end_of_text, tokenizer.name) == (262, 261, "bpe")
    assert tokenizer.encode("low lower lowest") == [257, 260, 258, *b"est"]


def test_a_run_of_one_sign_merges_from_the_left():
    assert learn_merges({b"aaaaa": 1}, 10) == [(97, 97), (256, 97), (256, 257)]


@pytest.mark.parametrize("seed", range(20))
def test_the_merges_are_those_of_the_definition(seed):
    draw = random.Random(seed)
    text = "".join(draw.choices("aaab \né7!'s", k=draw.randint(1, 400)))
    number = draw.randint(1, 80)
    words = regex.findall(GPT2_PATTERN, text)
    assert learn_merges(count_words([text]), number) == slow_merges(words, number)


@pytest.mark.parametrize("seed", range(20))
def test_counted_and_long_words_merge_as_by_the_definition(seed):
    draw = random.Random(seed)
    words = {
        bytes(draw.choices(b"abc"[: draw.randint(1, 3)], k=draw.randint(0, 60))): draw.randint(1, 4)
        for _ in range(draw.randint(1, 9))
    }
    text = [word.decode() for word, count in words.items() for _ in range(count)]
    merges = learn_merges(words, 70)
    assert merges == slow_merges(text, 70)


def test_a_word_of_many_letters_is_learnt_in_seconds_and_with_progress():
    word = "".join(random.Random(0).choices("abcdefgh", k=30_000))
    told = []
    start = time.monotonic()
    train_bpe([word], 3000, progress=lambda done, total: told.append((done, total)))
    assert time.monotonic() - start < 10
    assert told == [(done, 3000 - 257) for done in range(1, 3000 - 256)]


@pytest.mark.parametrize("pattern", ["", "x", r"\p{L}", r"\S+", r"[^\x00]", r"(?s)[\x00-\uffff]"])
def test_a_pattern_that_leaves_out_characters_is_refused(pattern):
    with pytest.raises(ConfigError, match="leaves out characters"):
        train_bpe(["one two"], 300, pattern=pattern)


@pytest.mark.parametrize("size", [10**6 + 1, 10**30, 10**300])
def test_a_vocabulary_beyond_all_use_is_refused(size):
    with pytest.raises(ConfigError, match="it must be 1,000,000 or less"):
        train_bpe(["one two"], size)


def test_the_result_depends_on_neither_order_nor_cutting():
    words = [f" {a}{b}{a}" for a in ("he", "lo", "wor", "ld") for b in ("x", "lo", "é")] * 3
    first = train_bpe(["".join(words)], 290)
    random.Random(0).shuffle(words)
    second = train_bpe(iter(words), 290)
    assert first.fingerprint == second.fingerprint


def test_text_round_trips_and_special_tokens_are_ordinary_in_the_data():
    text = "<|endoftext|> one two\r\n\x00 three 😀 <|endoftext|>" * 5
    tokenizer = train_bpe([text], 270, special_tokens=("<|endoftext|>", "<|pad|>"))
    assert tokenizer.special_tokens == {"<|endoftext|>": 268, "<|pad|>": 269}
    ids = tokenizer.encode(text)
    assert max(ids) < 268
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode())


def test_no_merge_crosses_the_pattern():
    tokenizer = train_bpe(["ab-ab-ab-cde-"], 259, pattern="[a-z]+|[^a-z]")
    assert set(tokenizer.ranks) - {bytes([byte]) for byte in range(256)} == {b"ab", b"cd"}


@pytest.mark.parametrize("vocab_size", [256, 0, -5])
def test_too_small_a_vocabulary(vocab_size):
    with pytest.raises(ConfigError, match=f"vocab_size is {vocab_size}; it must be 257 or more"):
        train_bpe(["text"], vocab_size)


def test_bytes_alone_are_a_vocabulary():
    assert train_bpe(["text"], 257).encode("text") == list(b"text")
    assert train_bpe(["text"], 256, special_tokens=()).end_of_text is None


def test_too_small_a_text():
    with pytest.warns(UserWarning, match="too small for vocab_size 1000: .* at 260"):
        assert train_bpe(["abcd"], 1000).vocab_size == 260
    with pytest.raises(DataError, match="at 260"):
        train_bpe(["abcd"], 1000, strict=True)
    with pytest.raises(DataError, match="no text"):
        train_bpe([], 1000)


def test_other_bad_input():
    with pytest.raises(DataError, match="surrogate"):
        train_bpe(["a\ud800"], 300)
    with pytest.raises(ConfigError, match="does not compile"):
        train_bpe(["text"], 300, pattern="(")
    for special_tokens in (["<|a|>", "<|a|>"], [""]):
        with pytest.raises(ConfigError, match="an empty token or one twice"):
            train_bpe(["text"], 300, special_tokens=special_tokens)


def test_memory_holds_the_distinct_words_alone():
    piece = "the same few words again and again " * 1000
    tracemalloc.start()
    count_words(piece for _ in range(20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * len(piece)


def test_a_large_vocabulary_takes_seconds():
    draw = random.Random(0)
    letters = "etaoinshrdlu"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(5000)]
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_bpe([" ".join(words)], 3000)
    assert time.perf_counter() - start < 10
