"""Exercises of notebook 10: targets of a chat, DPO's loss at the start, rows with an error."""

import copy
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from course.checks import choose, exercise, number_in
from jaxgpt import TEMPLATES, Turn, train_bpe
from jaxgpt.data.batches import IGNORE
from jaxgpt.finetuning.instructions import TokenRow, encode_conversation
from jaxgpt.tokenization.tokenizer import Tokenizer


class Chat(NamedTuple):
    """A conversation to try an answer on, with the template that it is written by."""

    title: str
    template: str
    turns: tuple[Turn, ...]


_ASKED = (Turn("user", "Who is it?"), Turn("assistant", "It is Leo."))
_SYSTEM = (Turn("system", "Be kind."),)

CHATS = (
    Chat("a chat of two questions", "chat", (*_SYSTEM, *_ASKED, *_ASKED)),
    Chat("a single question", "chat", _ASKED),
    Chat("a user who says what is answered", "chat", (Turn("user", "It is Leo."), *_ASKED[1:])),
    Chat("plain markers, one of them empty", "alpaca", (*_SYSTEM, *_ASKED)),
    Chat("an answer of one token", "phi", (_ASKED[0], Turn("assistant", "L"))),
    Chat("answers whose first id is 0", "phi", (_ASKED[0], Turn("assistant", "\0 Leo")) * 2),
    Chat("an empty answer", "chat", (_ASKED[0], Turn("assistant", ""), *_ASKED)),
    Chat("a question without an answer", "chat", _ASKED[:1]),
    Chat("an answer alone", "alpaca", (Turn("system", ""), *_ASKED[1:])),
)


@cache
def _tokenizer() -> Tokenizer:
    names = TEMPLATES["chat"].special_tokens + TEMPLATES["phi"].special_tokens
    return train_bpe(["It is Leo. Who is it? " * 9], 262).with_special_tokens(names)


def _pieces(chat: Chat) -> list[tuple[str, list[int]]]:
    encode = _tokenizer().encode
    return [
        (piece.kind, encode(piece.text, allow_special=piece.kind == "marker"))
        for piece in TEMPLATES[chat.template].render(chat.turns)
    ]


def oracle(chat: Chat) -> np.ndarray:
    """The package's targets of a conversation."""
    return encode_conversation(chat.turns, TEMPLATES[chat.template], _tokenizer()).targets


class _Row(NamedTuple):
    """The whole row of a conversation: ids, what each belongs to, and which answer it is in."""

    tokens: np.ndarray
    kinds: np.ndarray
    numbers: np.ndarray

    @property
    def learnt(self) -> np.ndarray:
        return np.isin(self.kinds, ["answer", "end"])


def _row(chat: Chat, end: int) -> _Row:
    tokens, kinds, numbers = [], [], []
    for number, (kind, ids) in enumerate(_pieces(chat)):
        ends = [end] if kind == "answer" else []
        tokens += [*ids, *ends]
        kinds += [kind] * len(ids) + ["end"] * len(ends)
        numbers += [number] * (len(ids) + len(ends))
    return _Row(np.array(tokens), np.array(kinds), np.array(numbers))


def _length_hint(targets: np.ndarray, row: _Row) -> str:
    found, wanted = len(targets), len(row.tokens) - 1
    answers, end = int((row.kinds == "end").sum()), row.tokens[row.kinds == "end"]
    if wanted - answers < found < wanted and np.isin(targets, end).any():
        return "the end-of-text token follows every answer, not the last one alone"
    if found == wanted + 1:
        return f"{found} tokens have {wanted} targets: nothing comes after the last one"
    if found in (wanted - answers, wanted - answers + 1):
        return "each answer is followed by the end-of-text token `end`, and here it is not"
    if found == row.learnt.sum():
        return "a place that learns nothing is kept, with IGNORE as its target, not left out"
    if found > wanted:
        return f"{found} targets in place of {wanted}: `end` follows answers alone"
    return f"{found} targets in place of {wanted}: every token but the first is one, or IGNORE"


def _value_hint(found: np.ndarray, row: _Row) -> str:
    tokens, learnt, before = row.tokens, row.learnt[1:], row.learnt[:-1]

    def is_row(mask: np.ndarray, ids: np.ndarray, ignore: float = IGNORE) -> bool:
        return np.array_equal(found, np.where(mask, ids, ignore))

    if np.isin(found, [0, 1]).all() and is_row(learnt, np.ones_like(learnt, int), 0):
        return "that is which targets are learnt; wanted are their ids, and IGNORE elsewhere"
    if any(is_row(mask, tokens[:-1]) for mask in (learnt, before)):
        return "the target of a place is the token after it; here it is the place's own token"
    if is_row(before, tokens[1:]):
        return "the ids are shifted by one and the choice of what is learnt is not: off by one"
    if np.array_equal(found, tokens[1:]):
        return "all tokens are learnt; only answers, each with its end, are to be"
    if is_row(~learnt, tokens[1:]):
        return "the wrong way round: prompts are learnt and answers ignored"
    filled = set(found[~learnt])
    if len(filled) == 1 and is_row(learnt, tokens[1:], filling := filled.pop()):
        return f"a target that is not learnt is IGNORE, {IGNORE}; here it is {filling:g}"
    kinds, numbers = row.kinds[1:], row.numbers[1:]
    extra = set(kinds[(found != IGNORE) & ~learnt])
    if "marker" in extra:
        return "a marker is learnt: the template writes it, not the model"
    if "said" in extra:
        return "what a user or the system says is learnt; the model is to answer it, not to say it"
    missing = (found == IGNORE) & learnt
    if missing.any() and set(kinds[missing]) == {"end"}:
        return "the end-of-text token after an answer is not learnt: the model would never stop"
    if missing.any() and not missing[numbers == numbers[learnt].max()].any():
        return "the last answer is learnt, and those before it are not"
    place = int(np.flatnonzero(found != np.where(learnt, tokens[1:], IGNORE))[0])
    wanted = tokens[1:][place] if learnt[place] else IGNORE
    return f"the target of place {place} is {found[place]:g} in place of {wanted}"


@exercise("10.1")
def build_targets(answer: Any) -> str | None:
    """The targets of a chat from its pieces: answers, each with its end-of-text token."""
    if not callable(answer):
        return f"a function is wanted, and this is a {type(answer).__name__}"
    function: Callable[..., Any] = answer
    end = _tokenizer().end_of_text
    assert end is not None
    for chat in CHATS:
        pieces = _pieces(chat)
        given = copy.deepcopy(pieces)
        try:
            found = np.asarray(function(given, end), float)
        except Exception as error:  # the reader's own
            return f"on {chat.title} it raises {type(error).__name__}: {error}"
        wanted, row = oracle(chat), _row(chat, end)
        if given != pieces:
            return (
                "it changes the pieces that it is given: make new lists, for `+=` alters old ones"
            )
        if found.ndim != 1:
            return f"a row of numbers is wanted, and on {chat.title} this has shape {found.shape}"
        if len(found) != len(wanted):
            return f"on {chat.title}: {_length_hint(found, row)}"
        if not np.array_equal(found, wanted):
            return f"on {chat.title}: {_value_hint(found, row)}"
    return None


@exercise("10.2")
def loss_at_the_start(answer: Any) -> str | None:
    """DPO's loss before the first step: ln 2."""
    number = number_in(answer)
    if number is None:
        return f"a number is wanted, and this is a {type(answer).__name__}"
    if abs(number - math.log(2)) < 4e-3:
        return None
    if number == 0:
        return "0 would be certainty; with both rewards 0, the sigmoid of their difference is 0.5"
    if abs(number - 0.5) < 4e-3:
        return "0.5 is the probability, the sigmoid of 0; the loss is minus its logarithm"
    if abs(number - 1) < 4e-3:
        return "1 is minus log2 of a half, in bits; losses here are in nats, by the natural log"
    if abs(number + math.log(2)) < 4e-3:
        return "the logarithm of a half is negative, and the loss is minus that"
    if abs(number - 0.1) < 4e-3:
        return "beta scales rewards, and of rewards that are 0 nothing is left to scale"
    if number < 0:
        return "minus the log of a probability is never negative"
    return "the model is its own reference: what are both rewards, and the sigmoid of 0?"


def suspect(row: TokenRow) -> TokenRow:
    """A row for training with one error, to be found."""
    return TokenRow(row.inputs, np.concatenate([[np.int32(IGNORE)], row.targets[:-1]]))


_NOT_SO = {
    "mask": "print the inputs where the target is IGNORE: no word of the question is a target",
    "padding": "a row by itself has no padding, and this one is wrong by itself",
    "end": "the end-of-text token after the first answer is among the targets",
    "markers": "look again: each target that is not IGNORE is a word of an answer, or its end",
}


@exercise("10.3")
def find_the_bug(answer: Any) -> str | None:
    """Why rows of `suspect` are too easy: targets are not shifted, each is its own input."""
    return choose(answer, "shift", _NOT_SO)
