"""Answers to the exercises of notebook 02: the right ones, and wrong ones with their hints."""

import numpy as np


def solution(ids, length, stride):
    """One index for all windows: where each begins, and the places from there."""
    starts = np.arange(0, len(ids) - length, stride)
    places = starts[:, None] + np.arange(length)
    return np.asarray(ids)[places], np.asarray(ids)[places + 1]


def _one_too_many(ids, length, stride):
    starts = np.arange(0, len(ids) - length + 1, stride)
    places = starts[:, None] + np.arange(length)
    return np.asarray(ids)[places], np.asarray(ids)[np.minimum(places + 1, len(ids) - 1)]


def _beyond_the_end(ids, length, stride):
    places = np.arange(0, len(ids), stride)[:, None] + np.arange(length)
    return np.asarray(ids)[places], np.asarray(ids)[places + 1]


def _cut_short(ids, length, stride):
    starts = range(0, len(ids) - 1, stride)
    return [ids[i : i + length] for i in starts], [ids[i + 1 : i + length + 1] for i in starts]


def _pairs(ids, length, stride):
    return list(zip(*solution(ids, length, stride), strict=True))


RIGHT = {"02.1": 5, "02.2": solution, "02.3": "targets"}

WRONG = {
    "02.1": [
        (6, "windows are whole"),
        (4, "one more fits"),
        (33, "a stride of 1"),
        (40, "count where they may begin"),
        (5.125, "a whole number"),
        (np.True_, "a whole number"),
    ],
    "02.2": [
        (lambda ids, length, stride: solution(ids, length, stride)[:1] * 2, "are the same"),
        (lambda ids, length, stride: solution(ids, length, stride)[::-1], "the token before"),
        (lambda ids, length, stride: solution(ids, length, 1), "mind the stride"),
        (lambda ids, length, stride: solution(ids, length, length), "mind the stride"),
        (_one_too_many, "mind the stride, and that the last target"),
        (_beyond_the_end, "raises"),
        (lambda *args: None, "returns nothing"),
        (_cut_short, "of several lengths"),
        (_pairs, "5 parts in place of two"),
        (lambda ids, length, stride: solution(ids, length + 1, stride), "have shape"),
        (lambda ids, length, stride: solution(np.sort(-ids), length, stride), "in place of"),
    ],
    "02.3": [
        ("order", "no window comes twice"),
        ("length", "as many tokens"),
        ("stride", "its own targets"),
        ("leak", "one of these words"),
    ],
}
