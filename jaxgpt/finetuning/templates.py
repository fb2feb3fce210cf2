"""Conversations as one text: what stands before, between and after what each side says."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.tokenization.chat_template import ChatTemplate, find_chat_template

Role = Literal["system", "user", "input", "assistant"]
"""Who says it; `input` is what a user's instruction is to be applied to."""


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Role
    text: str


@dataclass(frozen=True)
class Piece:
    """A part of the whole text: a `marker` of the template, something said, or an `answer`."""

    text: str
    kind: Literal["marker", "said", "answer"]


@dataclass(frozen=True)
class Template:
    """The markers around the turns. An answer is followed by the end-of-text token instead."""

    before: dict[Role, str] = field(hash=False)
    """Stands before a turn of each role."""
    after: str = ""
    """Stands after the system's turn, and after the user's with its input."""
    preamble: str = ""
    """The system's turn in a conversation that has none."""

    @property
    def special_tokens(self) -> list[str]:
        """What in the markers is spelt `<|like this|>`, to be one token each."""
        markers = "".join([*self.before.values(), self.after])
        return list(dict.fromkeys(re.findall(r"<\|.*?\|>", markers)))

    def render(self, turns: Sequence[Turn]) -> Iterator[Piece]:
        """The pieces of a conversation; joined, they are its text."""
        if self.preamble and (not turns or turns[0].role != "system"):
            turns = [Turn("system", self.preamble), *turns]
        for i, turn in enumerate(turns):
            yield Piece(self.before[turn.role], "marker")
            yield Piece(turn.text, "answer" if turn.role == "assistant" else "said")
            goes_on = i + 1 < len(turns) and turns[i + 1].role == "input"
            if turn.role != "assistant" and not goes_on:
                yield Piece(self.after, "marker")

    def render_prompt(self, turns: Sequence[Turn]) -> Iterator[Piece]:
        """The pieces up to where the assistant's next answer begins."""
        yield from self.render(turns)
        yield Piece(self.before["assistant"], "marker")


def _around(marker: str) -> dict[Role, str]:
    roles: tuple[Role, ...] = ("system", "user", "assistant")
    before: dict[Role, str] = {role: marker.format(role) for role in roles}
    before["input"] = "\n"
    return before


TEMPLATES = {
    "alpaca": Template(
        before={
            "system": "",
            "user": "\n\n### Instruction:\n",
            "input": "\n\n### Input:\n",
            "assistant": "\n\n### Response:\n",
        },
        preamble="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.",
    ),
    "phi": Template(_around("<|{}|>\n"), after="<|end|>\n"),
    "chat": Template(_around("<|im_start|>{}\n"), after="<|im_end|>\n"),
}
"""Alpaca (Taori et al. 2023), Phi-3 (Abdin et al. 2024) and ChatML (OpenAI 2023)."""


PromptTemplate = Template | ChatTemplate
"""One of `TEMPLATES`, or that of a tokenizer."""
OF_TOKENIZER = "tokenizer"
"""The name of the template that comes with a model's tokenizer."""


def choose_template(name: str, tokenizer: Any) -> tuple[str, PromptTemplate]:
    """The template called `name`; without a name the tokenizer's own, or else alpaca.

    Raises ConfigError if the tokenizer has none, CheckpointError if it is broken.
    """
    if name in TEMPLATES:
        return name, TEMPLATES[name]
    if own := find_chat_template(tokenizer):
        return OF_TOKENIZER, own
    if name:
        raise ConfigError(
            f"tokenizer {tokenizer.name} brings no chat template; name one of "
            f"{', '.join(TEMPLATES)} by --template"
        )
    return "alpaca", TEMPLATES["alpaca"]


def as_messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """The turns as chat templates take them; an input is a part of the user's message."""
    messages: list[dict[str, str]] = []
    for turn in turns:
        if turn.role == "input" and messages:
            messages[-1]["content"] += f"\n{turn.text}"
        else:
            messages.append({"role": turn.role, "content": turn.text})
    return messages


def tuned_template(task: Mapping[str, Any]) -> str:
    """The name of the template that a model with this task was tuned with; empty if with none.

    Raises CheckpointError if there is no such template.
    """
    name = task.get("template", "")
    if name and name not in (*TEMPLATES, OF_TOKENIZER):
        raise CheckpointError(
            f"the model was tuned with template {name!r}, which is none of {', '.join(TEMPLATES)}; "
            "upgrade, or name one of these by --template"
        )
    return name
