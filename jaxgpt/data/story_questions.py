"""Questions about the bundled stories, with answers that are known: the grammar made both.

A story's facts answer who, where and why. What comes next follows from what was packed, so these
stories break off before it is used. An answer has two right forms: a few words, or a sentence.
All of it is decided by (seed, index), as a story is; pretraining reads the stories of seed 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from jaxgpt.data.grammar import Grammar, by, one_of
from jaxgpt.data.stories import STORIES, tell_story

Kind = Literal["who", "where", "why", "what next"]

QUESTIONS = Grammar(
    {
        **STORIES.choices,
        "trouble": by(
            "problem",
            stuck="it was stuck",
            lost="it was lost",
            cold="it was cold",
            dark="it was afraid",
            sad="it was sad",
            hurt="it was hurt",
            thirsty="it was thirsty",
            torn="something was torn",
        ),
        # No question holds what another asks for, but the hero's name: the story must be read.
        "ask hero": one_of("Who is the hero?, Who is the story about?, What is the hero's name?"),
        "ask place": one_of("Where did {hero} go?, Where did they go?"),
        "ask spot": one_of("Where was the {stranger}?, Where did they meet the {stranger}?"),
        "ask problem": one_of("""Why did the {stranger} need help?, Why was the {stranger} unhappy?,
            Why was the {stranger} so upset?"""),
        "ask tool": one_of("""What will {hero} do next?, What happens next?,
            How will {hero} help the {stranger}?"""),
        "ask story": one_of("Tell me a story., Please tell me a story., Write a story."),
    }
)
"""The grammar of stories, and the wording of each question about one."""

_ASKED: dict[str, tuple[Kind, str, str]] = {
    "hero": ("who", "{hero}", "The hero is {hero}."),
    "place": ("where", "to the {place}", "They went to the {place}."),
    "spot": ("where", "{spot}", "It was {spot}."),
    "problem": ("why", "because {trouble}", "It needed help because {trouble}."),
    "tool": ("what next", "use the {tool}", "{hero} will use the {tool}."),
}
"""The facts that are asked for: the kind of question, the answer in short and as a sentence."""

# Few, as a story has several times as many tokens to learn as all the answers about it.
_TOLD = 0.125  # share of the conversations in which the assistant tells the story itself


@dataclass(frozen=True)
class Question:
    """A question about a story, and both forms of its answer."""

    kind: Kind
    story: str
    text: str
    short: str
    sentence: str

    @property
    def prompt(self) -> str:
        """What a user says who asks this first: the story, a blank line, the question."""
        return f"{self.story}\n\n{self.text}"

    def is_right(self, answer: str) -> bool:
        """Whether the answer is one of the two forms; white space at either end does not count."""
        return answer.strip() in (self.short, self.sentence)

    def is_sentence(self, answer: str) -> bool:
        """Whether the answer is right, and a sentence."""
        return answer.strip() == self.sentence


def questions(index: int, *, seed: int) -> list[Question]:
    """A question for each of the facts asked for, about story `index` of `seed`.

    The story breaks off before the rescue, which would tell what comes next.
    """
    facts = tell_story(index, seed=seed, grammar=QUESTIONS).facts
    return _questions(facts, facts["story"].partition(" " + facts["rescue"])[0])


def conversation(index: int, *, seed: int) -> dict[str, Any]:
    """A record `messages` of questions about one story, in any order, with answers in either form.

    The story stands before the first question or, in one of eight conversations, is what the
    assistant answers to "Tell me a story."; it then has its end, and nothing comes next.
    """
    facts = tell_story(index, seed=seed, grammar=QUESTIONS).facts
    numbers = Random(f"{seed} {index}")
    if numbers.random() < _TOLD:
        story = facts["story"].strip()
        asked = [item for item in _questions(facts, story) if item.kind != "what next"]
        messages = [_message("user", facts["ask story"]), _message("assistant", story)]
    else:
        asked, messages = questions(index, seed=seed), []
    # Of the generator's methods, Python promises for random() alone that it stays as it is.
    asked.sort(key=lambda _: numbers.random())
    for item in asked:
        messages.append(_message("user", item.text if messages else item.prompt))
        form = item.short if numbers.random() < 0.5 else item.sentence
        messages.append(_message("assistant", form))
    return {"messages": messages}


def preferences(index: int, *, seed: int) -> list[dict[str, Any]]:
    """Records `prompt`, `chosen` and `rejected`: of two right answers, the sentence is chosen."""
    return [
        {"prompt": item.prompt, "chosen": item.sentence, "rejected": item.short}
        for item in questions(index, seed=seed)
    ]


def _questions(facts: Mapping[str, str], story: str) -> list[Question]:
    return [
        Question(kind, story, facts[f"ask {fact}"], *(form.format_map(facts) for form in forms))
        for fact, (kind, *forms) in _ASKED.items()
    ]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
