"""Labelled texts: read, balanced and split by the seed alone; what no classifier can learn."""

from collections import Counter
from functools import partial
from itertools import chain

import pytest

from jaxgpt.errors import DataError
from jaxgpt.finetuning.labelled import (
    Labelled,
    balance,
    class_names,
    cut_labelled,
    labelled_rows,
    read_labelled,
)
from jaxgpt.finetuning.splits import FRACTIONS
from jaxgpt.tokenization.tokenizer import ByteTokenizer

TEXTS = [Labelled(f"text {i}", "ham" if i % 4 else "spam", f"f:{i + 1}") for i in range(40)]
cut = partial(cut_labelled, seed=0, fractions=FRACTIONS)


def test_reading(tmp_path):
    tsv, jsonl = tmp_path / "a.tsv", tmp_path / "b.jsonl"
    tsv.write_text("ham\tOk lar\nspam\tFREE\tentry\n")
    jsonl.write_text('{"label": 1, "text": "x"}\n{"label": " ham ", "text": "y"}\n')
    assert read_labelled([tsv, jsonl]) == [
        Labelled("Ok lar", "ham", f"{tsv}:1"),
        Labelled("FREE\tentry", "spam", f"{tsv}:2"),
        Labelled("x", "1", f"{jsonl}:1"),
        Labelled("y", "ham", f"{jsonl}:2"),
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"label": "x"}', r'a\.jsonl:1: no field "text"'),
        ('{"text": "x"}', r'a\.jsonl:1: no field "label"'),
        ('{"label": "", "text": "x"}', r'a\.jsonl:1: "label" is empty'),
        ('{"label": "x", "text": ""}', r'a\.jsonl:1: "text" is empty'),
        ('{"label": true, "text": "x"}', r'a\.jsonl:1: "label" must be a string, not bool'),
    ],
)
def test_bad_records_say_where(tmp_path, line, complaint):
    path = tmp_path / "a.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=complaint):
        read_labelled([path], strict=True)


def test_a_text_that_is_empty_is_left_out_by_name(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("ham\tOk\nspam\t \n\tFREE\n")
    wanted = r'2 of 3 records were left out: .*:2: "text" is empty; .*:3: "label" is empty$'
    with pytest.warns(UserWarning, match=wanted):
        assert [item.text for item in read_labelled([path])] == ["Ok"]


def test_balancing():
    balanced = balance(TEXTS, seed=0)
    assert Counter(item.label for item in balanced) == {"ham": 10, "spam": 10}
    assert balanced == sorted(balanced, key=TEXTS.index)
    assert balanced == balance(TEXTS, seed=0)
    assert balanced != balance(TEXTS, seed=1)
    assert {item for item in balanced if item.label == "spam"} == set(TEXTS[::4])


def test_every_part_has_the_shares_of_every_class():
    parts = cut(TEXTS)
    assert [Counter(item.label for item in part) for part in parts] == [
        *({"spam": 7, "ham": 21}, {"spam": 1, "ham": 3}, {"spam": 2, "ham": 6})
    ]
    assert sorted(chain(*parts), key=TEXTS.index) == TEXTS
    assert set(cut(TEXTS[::-1])[2]) == set(parts[2])


@pytest.mark.parametrize("copies", [1, 4])
def test_a_class_with_one_text(copies):
    rare = [Labelled("one", "rare", "f:9")] * copies
    with pytest.raises(DataError, match=r"class 'rare' has only 1 different text \(one at f:9\)"):
        cut(TEXTS + rare)


def test_one_class_is_none():
    with pytest.raises(DataError, match="all 10 texts have the label 'spam'; give two classes"):
        cut(TEXTS[::4])
    assert class_names(TEXTS) == ["ham", "spam"]


def rows_of(texts, context_length=64, **options):
    tokenizer = ByteTokenizer()
    return labelled_rows(
        texts, ["ham", "spam"], tokenizer, context_length=context_length, **options
    )


def test_batches():
    texts = [Labelled("ab", "spam", "f:1"), Labelled("abc", "ham", "f:2")]
    (batch,) = rows_of(texts).in_order(3)
    assert batch.tokens.shape == (3, 16)
    assert batch.tokens[:2, :4].tolist() == [[97, 98, 0, 0], [97, 98, 99, 0]]
    assert batch.lengths.tolist() == [2, 3, 1]
    assert batch.labels.tolist() == [1, 0, -100]


def test_a_label_never_seen():
    with pytest.raises(
        DataError, match=r"f:7: the label 'eggs' is none of the classes .*: ham, spa"
    ):
        rows_of([*TEXTS, Labelled("x", "eggs", "f:7")])


def test_a_text_longer_than_the_context():
    texts = [*TEXTS[:2], Labelled("x" * 65, "ham", "f:7")]
    with pytest.raises(DataError, match="f:7: 65 tokens are longer than context_length 64"):
        rows_of(texts, too_long="refuse")
    with pytest.warns(UserWarning, match="1 of 3 texts were cut to context_length 64"):
        rows = rows_of(texts)
    assert [len(tokens) for tokens, _ in rows.examples] == [6, 6, 64]


def test_a_text_without_tokens(monkeypatch):
    monkeypatch.setattr(ByteTokenizer, "encode", lambda self, text: [])
    with pytest.raises(DataError, match="f:1: the tokenizer finds no token"):
        rows_of(TEXTS)
