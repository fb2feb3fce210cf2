"""Answers to the exercises of notebook 10: the right ones, and wrong ones with their hints."""

import math

import numpy as np

from jaxgpt.data.batches import IGNORE


def solution(pieces, end):
    """Targets of a chat: the ids of answers, each with its end, and IGNORE elsewhere."""
    tokens, learnt = [], []
    for kind, ids in pieces:
        whole = [*ids, end] if kind == "answer" else ids
        tokens.extend(whole)
        learnt.extend([kind == "answer"] * len(whole))
    return np.where(learnt[1:], tokens[1:], IGNORE)


def _row(pieces, end, *, ends=("answer",), learns=("answer",), learn_end=True):
    """Ids, and which are learnt: of which kinds, and after which kinds there is an end."""
    tokens, learnt = [], []
    for kind, ids in pieces:
        tokens += [*ids, end] if kind in ends else ids
        learnt += [kind in learns] * len(ids) + [learn_end] * (kind in ends)
    return np.array(tokens), np.array(learnt, bool)


def _wrong(make, **choices):
    return lambda pieces, end: make(*_row(pieces, end, **choices))


def _targets(tokens, learnt):
    return np.where(learnt[1:], tokens[1:], IGNORE)


def _last_answer_alone(pieces, end):
    last = max((i for i, (kind, _) in enumerate(pieces) if kind == "answer"), default=-1)
    hidden = [("said" if i < last else kind, ids) for i, (kind, ids) in enumerate(pieces)]
    tokens, _ = _row(pieces, end)
    before = sum(len(ids) for _, ids in pieces[:last]) + sum(
        k == "answer" for k, _ in pieces[:last]
    )
    _, learnt = _row(hidden[last:], end)
    return _targets(tokens, np.concatenate([np.zeros(before, bool), learnt]))


def _one_end(pieces, end):
    tokens, learnt = _row(pieces, end, ends=())
    return _targets(np.append(tokens, end), np.append(learnt, True))


def _first_token_ignored(pieces, end):
    tokens, learnt = _row(pieces, end)
    return np.where(learnt[1:] & learnt[:-1], tokens[1:], IGNORE)


def _by_what_is_said(pieces, end):
    """Learns a token wherever it occurs in an answer."""
    tokens, learnt = _row(pieces, end)
    return _targets(tokens, np.isin(tokens, tokens[learnt]))


def _minds_zeros(pieces, end):
    tokens, learnt = _row(pieces, end)
    return _targets(tokens, learnt & (tokens > 0))


def _changes_pieces(pieces, end):
    for kind, ids in pieces:
        if kind == "answer":
            ids += [end]
    return _targets(*_row(pieces, end, ends=()))


RIGHT = {"10.1": solution, "10.2": math.log(2), "10.3": "shift"}

WRONG = {
    "10.1": [
        (_wrong(_targets, learns=("answer", "marker")), "a marker is learnt"),
        (_wrong(_targets, learns=("answer", "said")), "what a user or the system says"),
        (_wrong(_targets, ends=()), "is followed by the end-of-text token"),
        (_one_end, "not the last one alone"),
        (_wrong(_targets, ends=("answer", "said")), "`end` follows answers alone"),
        (_wrong(_targets, learn_end=False), "would never stop"),
        (_wrong(lambda t, m: np.where(m[:-1], t[1:], IGNORE)), "off by one"),
        (_wrong(lambda t, m: np.where(m[:-1], t[:-1], IGNORE)), "the place's own token"),
        (_wrong(lambda t, m: np.where(m[1:], t[:-1], IGNORE)), "the place's own token"),
        (_wrong(lambda t, m: np.where(m, t, IGNORE)), "nothing comes after the last one"),
        (_wrong(lambda t, m: t[1:]), "all tokens are learnt"),
        (_wrong(lambda t, m: np.where(m[1:], IGNORE, t[1:])), "the wrong way round"),
        (_wrong(lambda t, m: t[m]), "not left out"),
        (_wrong(lambda t, m: np.where(m[1:], t[1:], 0)), "here it is 0"),
        (_wrong(lambda t, m: m[1:]), "wanted are their ids"),
        (_last_answer_alone, "those before it are not"),
        (_first_token_ignored, "in place of"),
        (_by_what_is_said, "is learnt"),
        (_minds_zeros, "answers whose first id is 0"),
        (_changes_pieces, "changes the pieces"),
        (lambda pieces: [], "raises TypeError"),
        (lambda pieces, end: None, "a row of numbers is wanted"),
        (lambda pieces, end: ["?"], "raises ValueError"),
        (3, "a function is wanted"),
    ],
    "10.2": [
        (0, "0 would be certainty"),
        (0.5, "is the probability"),
        (1, "in bits"),
        (-math.log(2), "negative, and the loss is minus"),
        (0.1, "nothing is left to scale"),
        (-3.0, "never negative"),
        (math.inf, "its own reference"),
        (math.nan, "its own reference"),
        ("ln 2", "a number is wanted"),
        (None, "a number is wanted"),
    ],
    "10.3": [
        ("mask", "no word of the question"),
        ("padding", "has no padding"),
        ("end", "is among the targets"),
        ("markers", "a word of an answer"),
        ("template", "one of these words"),
        (3, "one of these words"),
    ],
}
