"""Rank files, records and checks: every way in which they can be damaged has its own complaint."""

import base64
import os
import re

import pytest

from jaxgpt.errors import DataError
from jaxgpt.tokenization import vocabulary

BYTES = {bytes([byte]): byte for byte in range(256)}


def line(token: bytes, rank: int) -> bytes:
    return base64.b64encode(token) + b" " + str(rank).encode() + b"\n"


def test_rank_lines_come_back_in_rank_order():
    ranks = {b"he": 256, **BYTES, b"\xff\n": 257}
    content = vocabulary.format_ranks(ranks)
    assert content.splitlines(keepends=True)[0] == line(b"\x00", 0)
    assert content.splitlines(keepends=True)[-1] == line(b"\xff\n", 257)
    assert vocabulary.parse_ranks(content) == ranks


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"IQ== 0\n!!!! 1\n", "line 2: b'!!!! 1' is not a base64 token"),
        (b"IQ== 0\nIg 1\n", "line 2"),
        (b"IQ== 0\n\nIg== 1\n", "line 2"),
        (b"IQ== zero\n", "line 1"),
        (b"IQ== 0 0\n", "line 1"),
        (line(b"a", 0) + line(b"a", 1), "line 2: the token b'a' is given twice"),
        (b"\x80\x04\x95pickle", "line 1"),
    ],
)
def test_a_damaged_rank_line_is_named(content, complaint):
    with pytest.raises(DataError, match=re.escape(complaint)):
        vocabulary.parse_ranks(content)


def test_ranks_are_checked():
    vocabulary.check_ranks({**BYTES, b"he": 256}, {"<|endoftext|>": 257}, "good")
    without_a = {token: rank for token, rank in BYTES.items() if token != b"a"}
    with pytest.raises(DataError, match="no token for byte 0x61"):
        vocabulary.check_ranks({**without_a, b"he": 97}, {}, "bad")
    with pytest.raises(DataError, match="id 257 where 256 is due"):
        vocabulary.check_ranks({**BYTES, b"he": 257}, {}, "bad")
    with pytest.raises(DataError, match="id 256 where 257 is due"):
        vocabulary.check_ranks({**BYTES, b"he": 256, b"lo": 256}, {}, "bad")


def test_a_special_token_may_fill_a_hole_or_lie_beyond_one_but_not_clash():
    vocabulary.check_ranks({**BYTES, b"he": 257}, {"<|a|>": 256, "<|b|>": 300}, "good")
    for special_tokens in ({"<|a|>": 97}, {"<|a|>": -1}, {"<|a|>": 260, "<|b|>": 260}):
        with pytest.raises(DataError, match="id"):
            vocabulary.check_ranks(BYTES, special_tokens, "bad")


def test_the_fingerprint_sees_every_part_and_no_order():
    first = vocabulary.fingerprint({"kind": "bpe", "special_tokens": {"a": 1, "b": 2}}, b"ranks")
    assert first == vocabulary.fingerprint(
        {"special_tokens": {"b": 2, "a": 1}, "kind": "bpe"}, b"ranks"
    )
    others = [
        vocabulary.fingerprint({"kind": "bpe", "special_tokens": {"a": 1, "b": 3}}, b"ranks"),
        vocabulary.fingerprint({"kind": "bpe", "special_tokens": {"a": 1, "b": 2}}, b"ranks2"),
        vocabulary.fingerprint({"kind": "words", "special_tokens": {"a": 1, "b": 2}}, b"ranks"),
    ]
    assert len({first, *others}) == 4
    assert re.fullmatch("[0-9a-f]{64}", first)


def test_ids_and_text_are_checked():
    vocabulary.check_ids([], 10)
    vocabulary.check_ids([0, 9], 10)
    with pytest.raises(DataError, match=r"id 10 at position 1 is outside \[0, 10\)"):
        vocabulary.check_ids([3, 10], 10)
    with pytest.raises(DataError, match=r"id -1 at position 0"):
        vocabulary.check_ids([-1, 10], 10)
    assert vocabulary.to_utf8("aé") == b"a\xc3\xa9"
    with pytest.raises(DataError, match=r"U\+D83D at character 2"):
        vocabulary.to_utf8("ab\ud83d")


def test_a_record_is_read_back_and_replaced(tmp_path):
    folder = tmp_path / "new" / "folder"
    vocabulary.write_record(folder, {"kind": "bpe", "pattern": "é"}, b"IQ== 0\n")
    vocabulary.write_record(folder, {"kind": "bpe", "pattern": "è"}, b"Ig== 0\n")
    assert vocabulary.read_record(folder) == {"kind": "bpe", "pattern": "è"}
    assert vocabulary.read_ranks(folder / "ranks.tiktoken") == {b'"': 0}
    assert sorted(path.name for path in folder.iterdir()) == ["ranks.tiktoken", "tokenizer.json"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", "[" * 100_000])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        vocabulary.read_record(tmp_path)


def test_what_is_no_readable_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="No such file"):
        vocabulary.read_record(tmp_path)
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match="not a regular file"):
        vocabulary.read_record(tmp_path)
    (tmp_path / "large").write_bytes(b"12345")
    monkeypatch.setattr(vocabulary, "MAX_BYTES", 4)
    with pytest.raises(DataError, match="large has 5 bytes; at most 4 are read"):
        vocabulary.read_ranks(tmp_path / "large")
