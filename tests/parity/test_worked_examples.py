"""The worked examples agree with what the notebooks print, and would not if they were wrong."""

import inspect
import linecache

import pytest

from jaxgpt.errors import DataError
from jaxgpt.worked import examples
from jaxgpt.worked.byte_pairs import LetterPairs, spaced_words, whole_text
from jaxgpt.worked.examples import CHAPTERS, Given, disagreement, load_facts, run_examples

FACTS = {fact["id"]: fact for fact in load_facts()}
TEXT = "the cat sat on the mat. the cat ate\nthe rat  and sat"


def run(name, given=None, **changes):
    (outcome,) = run_examples(given or Given(), [FACTS[name] | changes])
    return outcome


@pytest.fixture(scope="module")
def outcomes():
    return list(run_examples(Given()))


@pytest.mark.whole_run
def test_nothing_is_missed(outcomes):
    assert [item for item in outcomes if item.verdict == "miss"] == []
    # The vocabulary of GPT-2 may be absent, and the texts are; the rest is computed here.
    assert sum(item.verdict == "ok" for item in outcomes) >= 50


@pytest.mark.whole_run
def test_what_cannot_be_computed_says_why(outcomes):
    verdicts = {item.id: item.verdict for item in outcomes}
    assert verdicts["ch02.n_chars"] == "needs the story"
    assert verdicts["dpo.loader_widths"] == "needs the records"
    for item in outcomes:
        assert (
            item.verdict != "not run" or "GPT-2's vocabulary is not on this machine" in item.reason
        )


def test_every_example_has_a_fact_and_a_chapter():
    list(run_examples(Given(), []))  # imports the examples
    assert {name.split(".")[0] for name in FACTS} == CHAPTERS.keys()
    assert FACTS.keys() == examples.EXAMPLES.keys()


def test_a_traceback_names_the_example():
    list(run_examples(Given(), []))
    names = [
        item.__qualname__ for item in examples.EXAMPLES.values() if item.__name__ != "<lambda>"
    ]
    assert len(set(names)) == len(names) > 40
    assert "_" not in names
    for name, item in examples.EXAMPLES.items():
        code = inspect.unwrap(item).__code__  # in tests wrapped by jaxtyping
        line = linecache.getline(code.co_filename, code.co_firstlineno)
        assert repr(name)[1:-1] in line or name.startswith("ch04.params."), line


def test_another_story_is_a_miss():
    assert run("ch02.n_chars", Given(TEXT)).verdict == "miss"
    assert (
        run("ch02.regex_tokens_total", Given(TEXT), expected=len(TEXT.split()) + 1).verdict == "ok"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("appA.params", 2214),
        ("appA.grads", [-0.0898, -0.0818]),
        ("ch03.context2", [0.4419, 0.6515, 0.5684]),
        ("ch03.dropout.ones", [[2] * 6] * 6),
        ("ch02.bonus.emb_equals_onehot_matmul", False),
        ("ch02.regex_split_hello", ["Hello"]),
        ("ch04.params.medium", {"untied": 406212608}),
        ("dpo.gather", 1.4186),
        ("appE.params", {"total": 124441346, "frozen_trainable": 1, "lora_r16": 2666528}),
        ("ch07.lora_params_355M", 7898383),
    ],
)
def test_a_wrong_fact_is_a_miss(name, expected):
    outcome = run(name, expected=expected)
    assert outcome.verdict == "miss"
    assert outcome.reason


@pytest.mark.parametrize(
    ("expected", "computed", "complaint"),
    [
        ([1, [2, 3]], [1, [2, 4]], "at [1][1]: 4 in place of 3"),
        ({"a": 1.0}, {"a": 1.2}, "at [a]: 1.2 in place of 1.0"),
        ([1, 2], [1], "1 values in place of 2"),
        ({"a": 1}, {"b": 1}, "the keys are ['b']"),
        (True, 1, "1 in place of True"),
        ("x", "y", "'y' in place of 'x'"),
        ([1.0], [1.05], ""),
        (1, 1.0, ""),
        ([0.0], [float("nan")], "at [0]: nan in place of 0.0"),
    ],
)
def test_disagreement(expected, computed, complaint):
    assert disagreement(expected, computed, 0.1, 0.0) == complaint


def test_a_tolerance_may_be_relative():
    assert disagreement(1e-5, 1.001e-5, 0.0, 1e-2) == ""
    assert disagreement(1e-5, 1.1e-5, 0.0, 1e-2)


def test_spaced_words():
    assert spaced_words("a bc  d\ne ") == ["a", "Ġbc", "Ġ", "Ġd", "\n", "e", "Ġ"]
    assert whole_text(" a b") == ["aĠb"]


def test_letter_pairs_merge_the_most_frequent_pair_first():
    pairs = LetterPairs(spaced_words(TEXT), 261)
    assert pairs.pieces[256:258] == ["Ġ", "<|endoftext|>"]
    # "at" stands there seven times, then "th" and "he" four; of equals the one met first.
    assert pairs.pieces[258:260] == ["at", "th"]
    assert len(pairs.merges) == 3
    assert pairs.decode(pairs.encode(TEXT.replace("\n", " "))) == TEXT.replace("\n", " ")


def test_letter_pairs_know_a_whole_piece_at_once():
    pairs = LetterPairs(["abc"] * 3, 260)
    assert pairs.pieces[258:] == ["ab", "abc"]
    assert pairs.encode("abc") == [259]
    assert pairs.encode("abab") == [258, 258]


def test_letter_pairs_stop_when_every_word_is_a_piece():
    assert len(LetterPairs(["ab"], 400).pieces) == 259


def test_letter_pairs_refuse_a_special_token():
    with pytest.raises(ValueError, match="special token"):
        LetterPairs(["a"], 300).encode("a <|endoftext|>")


def test_an_example_that_fails_is_a_miss(monkeypatch):
    monkeypatch.setitem(examples.EXAMPLES, "appA.params", lambda given: [][0])
    outcome = run("appA.params")
    assert (outcome.verdict, outcome.reason) == ("miss", "IndexError('list index out of range')")


def test_a_missing_vocabulary_is_not_a_miss(monkeypatch):
    def absent(name):
        raise DataError("GPT-2's vocabulary is not on this machine")

    monkeypatch.setattr(examples, "load_tokenizer", absent)
    assert run("ch04.batch").verdict == "not run"
