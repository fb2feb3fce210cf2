"""Questions about stories: their answers stand in the story, and nowhere else."""

import hashlib
import json
import re
from collections import Counter

import pytest

from jaxgpt.data.stories import STORIES, tell_story
from jaxgpt.data.story_questions import QUESTIONS, conversation, preferences, questions

ASKED = [question for index in range(300) for question in questions(index, seed=1)]


def urn(name: str) -> list[str]:
    return list(QUESTIONS.choices[name].urns[""])


@pytest.fixture(scope="module")
def conversations() -> list[list[dict[str, str]]]:
    return [conversation(index, seed=1)["messages"] for index in range(400)]


def told(messages: list[dict[str, str]]) -> bool:
    """Whether the assistant tells the story."""
    return messages[1]["content"].count(".") > 2


def test_questions_are_about_the_same_story_that_stops_before_the_rescue():
    for index in range(50):
        story = tell_story(index, seed=1)
        for question in questions(index, seed=1):
            assert story.text.startswith(question.story + " ")
            assert story.facts["rescue"] not in question.story
            assert story.facts["meeting"] in question.story


def test_every_story_is_asked_who_where_why_and_what_next():
    kinds = [question.kind for question in questions(0, seed=1)]
    assert Counter(kinds) == {"who": 1, "where": 2, "why": 1, "what next": 1}


def test_short_answers_are_in_the_story():
    for question in ASKED:
        if question.kind != "why":
            assert re.search(rf"\b{question.short.split()[-1]}\b", question.story)


def test_every_trouble_has_a_reason_of_its_own():
    reasons = {}
    for index in range(300):
        (question,) = (item for item in questions(index, seed=1) if item.kind == "why")
        reasons.setdefault(tell_story(index, seed=1).facts["problem"], set()).add(question.short)
    assert reasons.keys() == STORIES.choices["problem"].urns[""].keys()
    assert len(set().union(*reasons.values())) == sum(map(len, reasons.values())) == len(reasons)


def test_what_comes_next_is_what_the_whole_story_tells():
    for index in range(100):
        *_, question = questions(index, seed=1)
        assert question.kind == "what next"
        assert question.short.removeprefix("use ") in tell_story(index, seed=1).facts["rescue"]


def test_the_wording_of_a_question_does_not_say_its_answer():
    answers: dict[str, set[str]] = {}
    for index in range(300):
        facts = tell_story(index, seed=1).facts
        for question in questions(index, seed=1):
            wording = question.text
            for name in ("hero", "stranger"):
                wording = re.sub(rf"\b{facts[name]}\b", name, wording)
            answers.setdefault(wording, set()).add(question.short)
    asked = [text for name in QUESTIONS.choices if name.startswith("ask") for text in urn(name)]
    assert len(answers) == len(asked) - len(urn("ask story"))
    assert min(map(len, answers.values())) >= 8


def test_no_question_holds_the_answer_to_another_but_the_hero():
    for index in range(300):
        hero, *others = questions(index, seed=1)
        text = " ".join(item.text for item in (hero, *others))
        for question in others:
            assert not re.search(rf"\b{question.short.split()[-1]}\b", text)


def test_both_forms_are_right_and_only_one_is_a_sentence():
    for question in ASKED:
        assert question.is_right(f" {question.short}\n")
        assert question.is_right(question.sentence)
        assert question.is_sentence(f"{question.sentence} ")
        assert not question.is_sentence(question.short)
        assert re.fullmatch(r"[A-Z][^.]+\.", question.sentence)
        assert question.short.rstrip(".") == question.short


@pytest.mark.parametrize("wrong", ["", "Lily.", "the hero is Lily.", "The hero is Lily. She"])
def test_another_text_is_not_right(wrong):
    question = next(item for item in ASKED if item.sentence == "The hero is Lily.")
    assert not question.is_right(wrong)
    assert not question.is_sentence(wrong)


def test_conversations_ask_of_a_story_in_turns(conversations):
    for messages in conversations:
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant"] * (len(messages) // 2)
        assert all(message["content"].strip() == message["content"] for message in messages)


def test_a_conversation_answers_as_its_questions_do(conversations):
    for index, messages in enumerate(conversations):
        known = {question.text: question for question in questions(index, seed=1)}
        turns = messages[2 * told(messages) :]
        for user, assistant in zip(turns[::2], turns[1::2], strict=True):
            assert known[user["content"].split("\n")[-1]].is_right(assistant["content"])


def test_a_story_that_was_asked_for_has_its_end(conversations):
    some = [(index, messages) for index, messages in enumerate(conversations) if told(messages)]
    assert 27 <= len(some) <= 73  # an eighth of 400, give or take three and a half deviations
    for index, messages in some:
        assert messages[1]["content"] + "\n\n" == tell_story(index, seed=1).text
        assert messages[0]["content"] in urn("ask story")
        assert len(messages) == 2 * (1 + 4)


def test_answers_come_in_either_form_and_questions_in_any_order(conversations):
    answers = [m["content"] for c in conversations for m in c[2 * told(c) + 1 :: 2]]
    share = sum(answer.endswith(".") for answer in answers) / len(answers)
    assert 0.45 < share < 0.55
    firsts = Counter(m[0]["content"].split("\n")[-1].split()[0] for m in conversations)
    assert min(firsts[word] for word in ("Who", "Where", "Why")) > 20


def test_preferences_choose_the_sentence():
    records = preferences(7, seed=1)
    for record, question in zip(records, questions(7, seed=1), strict=True):
        assert record == {
            "prompt": f"{question.story}\n\n{question.text}",
            "chosen": question.sentence,
            "rejected": question.short,
        }


def test_records_depend_on_seed_and_index_alone():
    assert conversation(3, seed=1) == conversation(3, seed=1)
    assert conversation(3, seed=1) != conversation(3, seed=2)
    assert conversation(1, seed=12) != conversation(2, seed=11)


def test_records_of_a_seed_never_change():
    """Pins the drawing and the words; edit it with them."""
    text = json.dumps([conversation(index, seed=1) for index in range(20)])
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "cbf803b033890bef94e616d08977ef4cf1cab5de8eda688b2af7cdd0936598e9"
