"""Texts to train on, and a judge's reply: read as they are, or refused by the line."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from harness import HOSTILE, Put, Raw, Whole, attempt, cuts, json_mutations, to_json, trees, wholes
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.assistant.judge import Judge
from jaxgpt.data.sources import read_documents
from jaxgpt.errors import DataError
from jaxgpt.tokenization.gpt2_vocabulary import read_gpt2_file

TEXTS = ["Once upon a time", "", "there was café\u2028 日本\n"]
ROWS = [{"text": text, "id": number} for number, text in enumerate(TEXTS)]


def lines(rows):
    return "".join(to_json(row) + "\n" for row in rows).encode()


def read(path, content):
    """The texts in a file of this content, or the error."""
    path.write_bytes(content)
    found = attempt(lambda: list(read_documents([path])), DataError)
    if isinstance(found, DataError):
        assert path.name in str(found)
        return found
    for document in found:
        assert document.text.encode()
    return [document.text for document in found]


@given(mutation=trees)
@example(Put((0, "text"), "\ud800"))
@example(Put((0, "text"), ["a"]))
@example(Put((0, "\x1b[2J"), 1))
@example(Put((0,), Raw('{"text": "a", "text": "b"}')))
@example(Put((0, "id"), Raw("1e999")))
@example(Put((0, "id"), Raw("1" * 5000)))
@example(Put((0, "id"), Raw("[" * 100_000)))
def test_hostile_lines_are_texts_or_refused(tmp_path, mutation):
    found = mutation.into(ROWS)
    if isinstance(found, list):
        read(tmp_path / "texts.jsonl", lines(found))


@given(mutation=cuts | wholes)
@example(Whole(b"\xef\xbb\xbf"))
@example(Whole(b"\xff\xfe\0\0"))
@example(Whole(b"PAR1"))
@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".parquet"])
def test_damaged_texts_are_texts_or_refused(tmp_path, suffix, mutation):
    path = tmp_path / f"texts{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), path)
        read(path, mutation(path.read_bytes()))
    elif suffix == ".jsonl":
        read(path, mutation(lines(ROWS)))
    else:
        content = mutation("".join(TEXTS).encode())
        found = read(path, content)
        bare = content.removeprefix(b"\xef\xbb\xbf")
        assert isinstance(found, DataError) or "".join(found).encode() == bare


@given(mutation=json_mutations)
@example(Whole(b"#version: 0.2\n"))
@example(Whole(b"IQ== 0\n"))
@example(Put(("model", "merges"), [5]))
@example(Put(("model",), []))
@example(Put(("model", "vocab", "a"), Raw("1e999")))
@example(Whole(b"[" * 100_000))
def test_another_vocabulary_is_not_taken_for_that_of_gpt2(tmp_path, mutation):
    vocabulary = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}
    path = tmp_path / "tokenizer.json"
    path.write_bytes(mutation(json.dumps(vocabulary).encode()))
    assert isinstance(attempt(lambda: read_gpt2_file(path), DataError), DataError)


REPLY = {"choices": [{"message": {"role": "assistant", "content": " A\n"}}], "model": "x"}
contents = st.builds(
    lambda value: Put(("choices", 0, "message", "content"), value), st.sampled_from(HOSTILE)
)


@given(mutation=json_mutations | contents)
@example(Put(("choices",), {}))
@example(Put(("choices",), []))
@example(Put(("choices", 0, "message", "content"), None))
@example(Put(("more",), Raw("1e999")))
@example(Whole(b"[" * 100_000))
@example(Whole(b"\xff"))
def test_a_reply_is_a_verdict_or_refused(monkeypatch, mutation):
    content = mutation(json.dumps(REPLY).encode())
    monkeypatch.setattr(Judge, "_post", lambda self, body: content)
    judge = Judge("http://localhost:1", "x")
    found = attempt(lambda: judge.compare("a", "b", "c"), DataError)
    assert found in ("A", "B", "tie", None) or isinstance(found, DataError)
