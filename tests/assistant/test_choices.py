"""Endings are scored by the tokens after the context, and nothing about the batch matters."""

import dataclasses
import json
from functools import partial

import jax
import numpy as np
import pytest

from jaxgpt.assistant.choices import (
    Question,
    ending_likelihoods,
    evaluate_choices,
    read_questions,
)
from jaxgpt.errors import DataError
from jaxgpt.model.gpt import GPT
from jaxgpt.presets import get_preset
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.training.checkpoint import LoadedModel

TOKENIZER = train_bpe(["The king set sail. Who was kind? "] * 9, 275)
RECORD = {"ctx": "The king ", "endings": [" set sail.", "was kind.", "and a hat"], "label": "1"}
QUESTIONS = [
    Question("The king", ("set sail.", "was kind?", "x"), 0, "f:1"),
    Question("Who was kind? The king was", ("kind.", "at sea, and not kind."), 1, "f:2"),
    Question("A", ("hat", "king set sail"), 1, "f:3"),
]


@pytest.fixture(scope="module")
def model(random_params):
    tiny = get_preset("tiny")
    shape = dataclasses.replace(tiny.model, vocab_size=280, context_length=32, num_layers=1)
    train = dataclasses.replace(tiny, model=shape)
    return LoadedModel(shape, random_params(shape), TOKENIZER, 0, train)


@partial(jax.jit, static_argnums=0)
def log_softmax(config, params, tokens):
    return jax.nn.log_softmax(GPT(config, params)(tokens))


def by_hand(model, context, ending):
    """The sum of the ending's log-probabilities, from all logits of one row."""
    given, tokens = TOKENIZER.encode(context), TOKENIZER.encode(context + " " + ending)
    assert tokens[: len(given)] == given
    tokens = tokens[-model.config.context_length - 1 :]
    row = np.zeros((1, model.config.context_length), np.int32)
    row[0, : len(tokens) - 1] = tokens[:-1]
    log_probs = log_softmax(model.config, model.params, row)[0]
    nats = log_probs[np.arange(len(tokens) - 1), np.array(tokens[1:])]
    return float(nats[-len(TOKENIZER.encode(" " + ending)) :].sum())


def test_the_log_probabilities_are_those_by_hand(model):
    found = ending_likelihoods(model, QUESTIONS, batch_size=4)
    for asked, nats in zip(QUESTIONS, found, strict=True):
        # At most 20 float32 terms: 20 roundings of 2^-24 relative.
        assert nats.tolist() == pytest.approx(
            [by_hand(model, asked.context, ending) for ending in asked.endings], rel=2e-6
        )


def test_a_long_context_is_cut_on_the_left(model):
    long = Question("Who was kind? " * 9 + "The king", ("set sail.", "x"), 0, "f:1")
    with pytest.warns(UserWarning, match="2 of 2 endings follow a context that was cut .* 32"):
        (nats,) = ending_likelihoods(model, [long], batch_size=4)
    expected = [by_hand(model, long.context, ending) for ending in long.endings]
    assert nats.tolist() == pytest.approx(expected, rel=2e-6)


def test_accuracy_by_sum_and_by_character(monkeypatch, model):
    # By sum the third, first and first ending; by character the third, second and first.
    nats = [[-4.0, -4.1, -0.9], [-5.0, -6.0], [-3.0, -9.0]]
    monkeypatch.setattr(
        "jaxgpt.assistant.choices.ending_likelihoods",
        lambda *_, **__: [np.array(row, np.float32) for row in nats],
    )
    questions = [
        Question("a", ("aaaa", "bbbb", "c"), 2, ""),
        Question("a", ("aaaaa", "b" * 20), 1, ""),
        Question("a", ("aaa", "b" * 5), 1, ""),
    ]
    assert evaluate_choices(model, questions) == (1 / 3, 2 / 3, 3)


def test_what_cannot_be_scored(model):
    with pytest.raises(DataError, match=r"f:9: 1 tokens of context and \d+ of the ending 'xxx"):
        ending_likelihoods(model, [Question("a", ("b", "x" * 40), 0, "f:9")])
    with pytest.raises(DataError, match="no record"):
        ending_likelihoods(model, [])


def write(folder, *records):
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return [path]


def test_reading(tmp_path):
    apart = {"ctx_a": "A man sat.", "ctx_b": "He", "endings": ["ran.", "rose."], "label": 0}
    first, second = read_questions(write(tmp_path, RECORD, apart))
    assert first.context == "The king"
    assert first.endings == ("set sail.", "was kind.", "and a hat")
    assert (first.label, second.label) == (1, 0)
    assert second.context == "A man sat. He"
    assert second.where.endswith("questions.jsonl:2")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"endings": "a"}, '"endings" must be a list of two strings or more'),
        ({"endings": ["a"]}, '"endings" must be a list of two'),
        ({"endings": ["a", 3]}, '"ending 1" must be a string, not int'),
        ({"label": 3}, '"label" is 3; it must be from 0 to 2'),
        ({"label": ""}, "\"label\" is ''; it must be"),
        ({"label": None}, '"label" is None; it must be'),
        ({"label": True}, '"label" is True; it must be'),
        ({"label": 1.0}, '"label" is 1.0; it must be'),
    ],
)
def test_bad_records_say_where(tmp_path, change, complaint):
    with pytest.raises(DataError, match=rf"questions.jsonl:2: {complaint}"):
        read_questions(write(tmp_path, RECORD, RECORD | change))


@pytest.mark.parametrize(
    ("change", "what"), [({"ctx": ""}, '"ctx"'), ({"endings": ["a", " "]}, '"ending 1"')]
)
def test_empty_records_are_left_out_by_name(tmp_path, change, what):
    with pytest.warns(UserWarning, match=f"1 of 2 records was left out: .*:2: {what} is empty"):
        assert len(read_questions(write(tmp_path, RECORD, RECORD | change))) == 1


def test_a_record_without_context(tmp_path):
    with pytest.raises(DataError, match=r'jsonl:1: no field "ctx"; the fields are text'):
        read_questions(write(tmp_path, {"text": "a"}))
