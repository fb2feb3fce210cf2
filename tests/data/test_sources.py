import gzip
import json
import os
import tracemalloc

import pytest

from jaxgpt.data import sources
from jaxgpt.data import text as text_module
from jaxgpt.data.sources import read_documents
from jaxgpt.data.text import Document, read_text, safe_cut
from jaxgpt.errors import DataError
from jaxgpt.tokenization.bpe import train_bpe

WORDS = "".join(f"Année {year}: it's {year % 9} ships, isn't it?\n\n  " for year in range(300))


def texts(*paths):
    """The documents, each put together from its pieces."""
    whole, parts = [], []
    for document in read_documents(paths):
        parts.append(document.text)
        if document.ends_document:
            whole.append("".join(parts))
            parts = []
    assert not parts
    return whole


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(text_module, "PIECE", 64)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "line\r\nline\rline\n",
        "nul \0 bell \a escape \x1b[31m delete \x7f",
        "🙂 naïve 漢字 \u2028 \ufeff inside",
        "<|endoftext|>",
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_text_is_kept_to_the_byte(tmp_path, text, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(text.encode())
    assert texts(path) == [text]


def test_each_text_file_is_a_document(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert list(read_documents([tmp_path])) == [
        Document("a", source_bytes=1),
        Document("b", source_bytes=1),
    ]


def test_pieces_make_the_document_and_do_not_change_its_tokens(tmp_path, short_pieces):
    path = tmp_path / "a.txt"
    path.write_text(WORDS)
    pieces = list(read_documents([path]))
    assert len(pieces) > 100
    assert "".join(piece.text for piece in pieces) == WORDS
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(0 < len(piece.text) <= 64 for piece in pieces)
    assert sum(piece.source_bytes for piece in pieces) == path.stat().st_size
    tokenizer = train_bpe([WORDS], 400)
    joined = [token for piece in pieces for token in tokenizer.encode(piece.text)]
    assert joined == tokenizer.encode(WORDS)


@pytest.mark.parametrize("text", ["a" * 1000, " " * 1000, "🙂" * 1000, "\r\n" * 500, "a. " * 300])
def test_text_without_a_safe_cut_is_cut_anyway(tmp_path, short_pieces, text):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    pieces = [document.text for document in read_documents([path])]
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 64


def test_a_cut_lies_before_a_space_after_a_letter_or_digit(monkeypatch):
    monkeypatch.setattr(text_module, "PIECE", 8)
    assert safe_cut("ab cd ef gh") == len("ab cd ef")
    assert safe_cut("ab cde. fgh") == len("ab")
    assert safe_cut("1_ 2  3_ 4_ 5") == len("1_ 2")
    assert safe_cut("abcdefghijk") == 8
    assert safe_cut("abcdefgh i") == 8
    assert safe_cut("ab cd ef gh ij", 5) == len("ab cd ef gh")


def test_memory_is_bounded_by_the_piece_and_not_by_the_line(tmp_path):
    path = tmp_path / "a.txt"
    with open(path, "wb") as file:
        for _ in range(24):
            file.write(b"x" * (1 << 20))
    tracemalloc.start()
    characters = sum(len(document.text) for document in read_documents([path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert characters == 24 << 20
    assert peak < 8 << 20


def test_a_range_of_a_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("train and validation")
    assert list(read_text(path, 0, 5)) == [Document("train", source_bytes=5)]
    assert list(read_text(path, 5)) == [Document(" and validation", source_bytes=15)]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_byte_order_mark_is_left_out_with_a_warning(tmp_path, name):
    path = tmp_path / name
    content = '{"text": "one"}' if name == "a.jsonl" else "one"
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    with pytest.warns(UserWarning, match="byte-order mark") as caught:
        assert texts(path) == ["one"]
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("content", "offset", "hint"),
    [
        ("two words".encode("utf-16"), 0, "UTF-16"),
        ("two words".encode("utf-32"), 0, "UTF-32"),
        (gzip.compress(b"two words", mtime=0), 1, "gunzip"),
        ("ascii, then Müller".encode("latin-1"), 13, "LATIN1"),
        (b"PK\x03\x04\xff", 4, "unzip"),
        ("cut €".encode()[:-1], 4, "LATIN1"),
        (b"\xed\xa0\x80", 0, "LATIN1"),
        (b"a" * 70 + b"\xff", 70, "LATIN1"),
    ],
)
def test_what_is_not_utf8_is_refused_with_the_offset(tmp_path, short_pieces, content, offset, hint):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.txt: not UTF-8 at byte {offset} .*{hint}"):
        texts(path)


def test_json_lines_are_documents_and_empty_ones_are_left_out(tmp_path, short_pieces):
    rows = [{"text": "one\n\0"}, {"text": ""}, {"n": 1, "text": WORDS}, {"text": "🙂"}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\r\n")
    with pytest.warns(UserWarning, match=r"a\.jsonl: 1 empty documents were left out"):
        assert texts(path) == ["one\n\0", WORDS, "🙂"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '[{"body": "one\\n"}, {"body": "two", "text": 3}]'),
        ("a.jsonl", '{"body": "one\\n"}\n{"body": "two", "text": 3}\n'),
        ("a.csv", 'Body,text\n"one\n",x\ntwo,3\n'),
    ],
)
def test_records_have_their_text_in_the_field_that_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    assert [document.text for document in read_documents([path], "body")] == ["one\n", "two"]
    with pytest.raises(DataError, match=r'no field "none", but .*name it with --text-field'):
        list(read_documents([path], "none"))


def test_a_tsv_has_names_or_a_label_and_a_text(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("ham\tone\nspam\ttwo\tthree\n")
    assert texts(path) == ["one", "two\tthree"]
    path.write_text("id\tbody\n1\tone\n")
    assert [document.text for document in read_documents([path], "body")] == ["one"]


def test_json_that_is_no_list_of_records_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"text": "one"}')
    with pytest.raises(DataError, match="holds one dict; it must be a list of objects"):
        texts(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '[{"text": "one", "text": "two"}]'),
        ("a.jsonl", '{"text": "one", "text": "two"}'),
        ("a.csv", "text,Text\none,two\n"),
        ("a.tsv", "text\tlabel\ttext\none\ttwo\tthree\n"),
    ],
)
def test_a_field_that_is_named_twice_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match="twice"):
        texts(path)


def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(DataError, match="is a pipe"):
        list(read_text(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"text": ' + "1" * 5000 + "}", "not JSON"),
        ('{"body": "x"}', r"no field \"text\", but the fields \['body'\]"),
        ('["text"]', 'no field "text", but list'),
        ('{"text": null}', "must be a string, not NoneType"),
        (r'{"text": "ab \ud800"}', "half of a surrogate pair, '.ud800', at character 3"),
    ],
)
def test_a_bad_json_line_is_named_by_file_and_number(tmp_path, line, complaint):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good"}}\n{line}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl:2: .*{complaint}"):
        texts(path)


def test_a_json_line_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: not UTF-8 at byte 10"):
        texts(path)


def test_a_json_line_beyond_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LONGEST_LINE", 1 << 10)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 2000}))
    with pytest.raises(DataError, match=r"a\.jsonl:1: the line is longer"):
        texts(path)
