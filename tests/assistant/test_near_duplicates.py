"""The most similar training text is found, by the runs of words that both have."""

import json
import time

import numpy as np
import pytest

from jaxgpt.assistant.near_duplicates import Text, most_similar, read_texts
from jaxgpt.errors import ConfigError, DataError


def texts(*lines):
    return [Text(line, f"f:{i}") for i, line in enumerate(lines, 1)]


TRAIN = texts("the king set sail at dawn", "a hat", "the king set sail at noon", ":-)", "No")


def test_case_punctuation_and_spacing_do_not_count():
    (found,) = most_similar(TRAIN, texts("The king -- set sail\n at DAWN!"))
    assert found.train == TRAIN[0]
    assert found.similarity == 1


def test_the_similarity_is_that_of_the_runs():
    (found,) = most_similar(TRAIN, texts("then the king set sail at noon"))
    # Runs of 3: 4 of the training text, 5 of the test text, 4 in both.
    assert (found.train, found.similarity) == (TRAIN[2], 4 / 5)
    (found,) = most_similar(TRAIN, texts("noon, and the king"), words=1)
    assert (found.train, found.similarity) == (TRAIN[2], 3 / 7)


def test_texts_shorter_than_a_run_are_compared_whole():
    found = most_similar(TRAIN, texts("A hat.", "hat", ":-)", ";-)", "no"))
    assert [item.similarity for item in found] == [1, 0, 1, 0, 1]
    assert found[1].train is None
    assert found[2].train == TRAIN[3]


def test_the_first_of_several():
    twice = texts("b c d e", "b c d e", "x")
    assert most_similar(twice, texts("b c d e"))[0].train == twice[0]


def test_against_all_pairs():
    noise = np.random.default_rng(0)
    train, test = (
        texts(*(" ".join(map(str, noise.integers(3, size=12))) for _ in range(40)))
        for _ in range(2)
    )

    def runs(text):
        words = text.split()
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    for found in most_similar(train, test):
        ours = runs(found.test.text)
        all_pairs = [len(ours & runs(item.text)) / len(ours | runs(item.text)) for item in train]
        assert found.similarity == pytest.approx(max(all_pairs))
        assert found.train == train[int(np.argmax(all_pairs))]


def test_thousands_of_texts_take_about_a_second():
    noise = np.random.default_rng(0)
    lines = [" ".join(map(str, noise.integers(2000, size=15))) for _ in range(5000)]
    start = time.process_time()
    found = most_similar(texts(*lines), texts(*reversed(lines)))
    assert all(item.similarity == 1 for item in found)
    assert time.process_time() - start < 10  # all pairs would take minutes


def test_a_run_has_words():
    with pytest.raises(ConfigError, match="words is 0; it must be 1 or more"):
        most_similar(TRAIN, TRAIN, words=0)


def test_reading_records_of_any_kind(tmp_path):
    chat = [{"role": role, "content": role[0]} for role in ("system", "user", "assistant")]
    records = [
        {"text": "a", "label": "x"},
        {"ctx": "b", "endings": []},
        {"prompt": "c", "chosen": "", "rejected": ""},
        {"instruction": "d", "input": "e", "output": "f"},
        {"instruction": "d", "output": "f"},
        {"messages": chat},
    ]
    path = tmp_path / "any.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [item.text for item in read_texts([path])] == ["a", "b", "c", "d\ne", "d", "s\nu"]
    path.write_text('{"text": "a"}\n{"title": "b"}\n')
    with pytest.raises(DataError, match=r"any.jsonl:2: no text, ctx, prompt, instruction or mess"):
        read_texts([path])
