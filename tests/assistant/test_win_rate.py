"""A win needs the verdict in both orders; and the answers of two files belong together."""

import json

import pytest

from jaxgpt.assistant.win_rate import Pair, WinRate, read_pairs, win_rate
from jaxgpt.errors import DataError

GOOD, BAD, ODD = "good", "bad", "odd"


def fair(question, first, second):
    """Prefers the good answer wherever it stands, and stammers where one is odd."""
    if ODD in (first, second):
        return None
    return {(GOOD, BAD): "A", (BAD, GOOD): "B"}[first, second]


def test_the_better_answer_wins_and_loses_and_is_counted():
    pairs = [Pair("q", GOOD, BAD)] * 3 + [Pair("q", BAD, GOOD), Pair("q", ODD, BAD)]
    result = win_rate(fair, iter(pairs))
    assert result == WinRate(wins=3, ties=0, losses=1, unreadable=1)
    assert (result.judged, result.rate) == (4, 0.75)


@pytest.mark.parametrize(
    "verdicts", [("A", "A"), ("B", "B"), ("tie", "tie"), ("A", "tie"), ("tie", "A")]
)
def test_a_preference_for_a_place_is_a_tie(verdicts):
    replies = iter(verdicts)
    result = win_rate(lambda *_: next(replies), [Pair("q", GOOD, BAD)])
    assert result == WinRate(0, 1, 0, 0)
    assert result.rate == 0.5


def test_one_unreadable_verdict_of_two_is_unreadable():
    replies = iter(["A", "B", "A", None])
    result = win_rate(lambda *_: next(replies), [Pair("q", GOOD, BAD)] * 2)
    assert result == WinRate(1, 0, 0, 1)


def test_answers_that_are_the_same_tie_unjudged():
    def refuse(*_):
        raise AssertionError("asked")

    assert win_rate(refuse, [Pair("q", "Finn. ", "Finn.")]) == WinRate(0, 1, 0, 0)


def test_without_any_verdict():
    with pytest.raises(DataError, match="none of 2 pairs got a verdict"):
        win_rate(lambda *_: None, [Pair("q", GOOD, BAD)] * 2)


def test_the_interval_is_wilson_s():
    # 15 of 20: 0.5313 to 0.8881 in the tables.
    assert WinRate(14, 2, 4, 3).interval == pytest.approx((0.5313, 0.8881), abs=1e-4)
    low, high = WinRate(5, 0, 0, 0).interval
    assert low == pytest.approx(0.5655, abs=1e-4)
    assert high == pytest.approx(1)


RECORD = {"instruction": "Name the hero.", "input": "Finn ran.", "output": "Finn."}


def write(folder, name, *records):
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return [path]


def test_pairs_of_two_files(tmp_path):
    ours = write(tmp_path, "a.jsonl", RECORD | {"answer": "Finn!"}, RECORD | {"answer": ""})
    theirs = write(tmp_path, "b.jsonl", *[RECORD | {"answer": "Who?"}] * 2)
    question = "user: Name the hero.\ninput: Finn ran."
    assert read_pairs(ours, theirs) == [Pair(question, "Finn!", "Who?"), Pair(question, "", "Who?")]
    assert read_pairs(ours)[0] == Pair(question, "Finn!", "Finn.")


def test_files_that_do_not_go_together(tmp_path):
    ours = write(tmp_path, "a.jsonl", *[RECORD | {"answer": "Finn!"}] * 2)
    other = RECORD | {"answer": "", "instruction": "Who?"}
    with pytest.raises(DataError, match=r"a.jsonl:2 and .*b.jsonl:2 have different questions"):
        read_pairs(ours, write(tmp_path, "b.jsonl", RECORD | {"answer": "a"}, other))
    with pytest.raises(DataError, match="2 answers cannot be compared with 1"):
        read_pairs(ours, write(tmp_path, "c.jsonl", other))
    with pytest.raises(DataError, match=r'd.jsonl:1: no field "answer"; the fields are instruct'):
        read_pairs(write(tmp_path, "d.jsonl", RECORD))
