"""Tokens to chunks: every token with the text that it is a part of."""

import pytest

from jaxgpt.serving.answer import Answer
from jaxgpt.serving.engine_types import Request, Token
from jaxgpt.tokenization.tokenizer import ByteTokenizer


def written(data, stop=(), count=1):
    """The chunks of bytes that come `count` at a time, as (text, bytes)."""
    answer, chunks = Answer(Request((1,), 9, stop=stop), ByteTokenizer()), []
    for at in range(0, len(data), count):
        text, tokens = answer.write([Token(byte) for byte in data[at : at + count]])
        chunks.append((text, bytes(token.id for token in tokens)))
    last = answer.finish("", [], "stop" if answer.stopped else "length")
    return [*chunks, (last.text, bytes(token.id for token in last.tokens))]


def test_a_character_comes_whole():
    assert written("é!".encode()) == [("", b""), ("é", "é".encode()), ("!", b"!"), ("", b"")]
    assert written("é".encode()[:1]) == [("", b""), ("\ufffd", b"\xc3")]


def test_what_may_begin_a_stop_string_is_held_back():
    assert written(b"abxc", ("xy",)) == [
        ("a", b"a"),
        ("b", b"b"),
        ("", b""),
        ("xc", b"xc"),
        ("", b""),
    ]
    assert written(b"abx", ("xy",))[-1] == ("x", b"x")


@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.parametrize(
    ("data", "stop", "kept"),
    [
        (b"abxyz", ("xy",), b"ab"),
        (b"xyz", ("xy",), b""),
        ("aéxy".encode(), ("xy",), "aé".encode()),
        ("aéxy".encode(), ("éx",), b"a"),
        (b"aaab", ("aab", "b"), b"a"),
        (b"a\xffxy", ("xy",), b"a\xff"),
    ],
)
def test_neither_text_nor_tokens_go_on_past_a_stop_string(data, stop, kept, count):
    chunks = written(data, stop, count)
    assert "".join(text for text, _ in chunks) == kept.decode(errors="replace")
    assert b"".join(tokens for _, tokens in chunks) == kept
