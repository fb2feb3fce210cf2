"""Pieces of text that never have to be taken back, however the tokens are chunked."""

import random
from dataclasses import dataclass
from typing import Any

import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.generation import text as text_module
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.generation.text import (
    TextWriter,
    generate_text,
    prompt_tokens,
    stream_texts,
)
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.tokenization.words import WordTokenizer

BYTES = ByteTokenizer()


@dataclass(frozen=True)
class Model:
    config: ModelConfig
    params: Any
    tokenizer: Any = BYTES


@pytest.fixture(scope="module")
def model(random_params):
    config = ModelConfig(vocab_size=300, context_length=16, num_layers=1, num_heads=2, embed_dim=8)
    return Model(config, random_params(config))


def write(data, size, stop=()):
    """The pieces of `data`, given `size` bytes at a time."""
    writer = TextWriter(BYTES, stop)
    chunks = [list(data[at : at + size]) for at in range(0, len(data), size)]
    return [writer.write(chunk) for chunk in chunks] + [writer.finish()]


def ended_by(text, stop):
    """What is left of `text` by definition: written letter by letter, until it ends in a stop."""
    for size in range(len(text) + 1):
        endings = [end for end in stop if text[:size].endswith(end)]
        if endings:
            return text[: size - max(map(len, endings))]
    return text


def test_characters_are_shown_whole():
    assert write("aé🙂b".encode(), 1) == ["a", "", "é", "", "", "", "🙂", "b", ""]


def test_broken_bytes_become_replacement_characters():
    data = "a🙂".encode()[:-1] + b"b\xff" + "é".encode()[:1]
    for size in range(1, len(data) + 1):
        assert "".join(write(data, size)) == data.decode(errors="replace")


def test_stop_is_cut_and_its_beginning_held_back():
    assert write(b"one END two", 1, ["END"]) == [*"one ", *[""] * 8]
    assert write(b"one ENOUGH", 1, ["END"]) == [*"one ", "", "", "ENO", *"UGH", ""]


def test_stop_begun_at_the_end_is_shown():
    assert write(b"one EN", 2, ["END"]) == ["on", "e ", "", "EN"]


def test_stop_within_a_chunk_ends_the_writer():
    writer = TextWriter(BYTES, ["\n\n", "User:"])
    assert writer.write(list(b"hello\n")) == "hello"
    assert not writer.stopped
    assert writer.write(list(b"\nmore")) == ""
    assert writer.stopped
    assert writer.write(list(b"and more")) == ""
    assert writer.finish() == ""


def test_stop_of_several_bytes_straddles_tokens():
    data = "wait… what".encode()
    for size in range(1, len(data) + 1):
        assert "".join(write(data, size, ["… w"])) == "wait"


def test_chunks_make_no_difference():
    draw = random.Random(0)
    for _ in range(300):
        data = "".join(draw.choices("ab", k=12))
        stop = ["".join(draw.choices("ab", k=draw.randint(1, 5))) for _ in range(3)]
        for size in (1, 2, 5, 12):
            assert "".join(write(data.encode(), size, stop)) == ended_by(data, stop)


def test_words_join_as_they_decode():
    tokenizer = WordTokenizer.train("the cat, the hat.")
    tokens = tokenizer.encode("the cat, the hat.")
    writer = TextWriter(tokenizer)
    assert "".join(writer.write([token]) for token in tokens) == " the cat, the hat."


def test_no_prompt_is_a_newline_or_the_end_of_text():
    assert prompt_tokens(BYTES, "") == [10]
    assert prompt_tokens(BYTES, "ab") == [97, 98]
    words = WordTokenizer.train("one two")
    assert prompt_tokens(words, "") == prompt_tokens(words, " ") == [words.end_of_text]


@pytest.mark.slow
def test_text_is_that_of_the_tokens(model):
    options = {"max_new_tokens": 40, "seed": 4, "sampling": SamplingConfig(temperature=0.8)}
    (tokens,) = generate(model.config, model.params, [[104, 105]], vocab_size=256, **options)
    pieces = list(generate_text(model, "hi", **options))
    assert "".join(pieces) == BYTES.decode(tokens)
    assert sum(map(bool, pieces)) > 1


@pytest.mark.slow
def test_stop_ends_one_row_of_several(model):
    def texts(**options):
        pieces = stream_texts(model, ["a", "b"], max_new_tokens=40, seed=4, **options)
        return ["".join(row) for row in zip(*pieces, strict=True)]

    whole = texts()
    stop = whole[0][5:7]
    cut = texts(stop=[stop])
    assert cut == [ended_by(text, [stop]) for text in whole]
    assert len(cut[0]) <= 5


def scripted(monkeypatch, chunks):
    """Make decoding yield `chunks`, and return what it is called with and how far it gets."""
    seen = {"chunks": 0}

    def stream(config, params, prompts, *, done, **options):
        seen.update(options, prompts=prompts)
        for chunk in chunks:
            if done.all():
                return
            seen["chunks"] += 1
            yield [list(new) for new in chunk]

    monkeypatch.setattr(text_module, "stream", stream)
    return seen


def test_decoding_ends_once_every_row_has_stopped(model, monkeypatch):
    seen = scripted(monkeypatch, [[b"one.", b"two"], [b"on", b"."], [b"x", b"y"]])
    pieces = stream_texts(model, ["", ""], max_new_tokens=9, stop=["."])
    assert ["".join(text) for text in zip(*pieces, strict=True)] == ["one", "two"]
    assert seen["chunks"] == 2


def test_arguments_reach_decoding(monkeypatch):
    words = WordTokenizer.train("one two")
    config = ModelConfig(vocab_size=64, context_length=2, num_layers=1, num_heads=1, embed_dim=2)
    for ignore, end in ((False, (words.end_of_text,)), (True, ())):
        seen = scripted(monkeypatch, [])
        options = {"max_new_tokens": 1, "ignore_end_of_text": ignore, "truncate": "left"}
        assert list(generate_text(Model(config, {}, words), "one two one", **options)) == [""]
        assert seen["end_of_text"] == end
        assert seen["vocab_size"] == words.vocab_size
        assert seen["prompts"] == [words.encode("two one")]


def test_long_prompt_is_refused_or_truncated(model):
    with pytest.raises(ConfigError, match="--truncate left"):
        next(generate_text(model, "x" * 17, max_new_tokens=4))
    kept = list(generate_text(model, "y" + "x" * 16, max_new_tokens=4, truncate="left"))
    assert kept == list(generate_text(model, "x" * 16, max_new_tokens=4))


def test_a_truncated_prompt_keeps_what_begins_every_text(monkeypatch):
    words = WordTokenizer.train("one two")
    begin = words.encode("two")[0]
    monkeypatch.setattr(WordTokenizer, "prefix", (begin,), raising=False)
    config = ModelConfig(vocab_size=64, context_length=3, num_layers=1, num_heads=1, embed_dim=2)
    seen = scripted(monkeypatch, [])
    list(
        generate_text(
            Model(config, {}, words), "one one one two", max_new_tokens=1, truncate="left"
        )
    )
    assert seen["prompts"] == [[begin, *words.encode("one two")]]


def test_empty_stop_is_refused(model):
    with pytest.raises(ConfigError, match="stop string is empty"):
        next(generate_text(model, "a", max_new_tokens=4, stop=["b", ""]))
