"""Exercises of notebook 09: the largest class, pooling at the last token, a batch with an error."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course.checks import Trial, choose, compare_calls, exercise, number_in, result
from jaxgpt.data.stories import STORIES
from jaxgpt.finetuning.classification import pool
from jaxgpt.finetuning.labelled import LabelledBatch

Answer = Callable[..., Any]

_URN = STORIES.choices["season"].urns[""]
_BALLS = sorted(_URN.values())


@exercise("09.1")
def accuracy_of_the_largest_class(answer: Any) -> str | None:
    """The accuracy of always saying summer: 4 balls of 13."""
    number = number_in(answer)
    if number is None:
        return f"a number is wanted, and this is a {type(answer).__name__}"
    total, most = sum(_BALLS), _BALLS[-1]
    near = {
        most / total: None,
        1 / len(_BALLS): "that is so where all classes are equally frequent; count the balls",
        _BALLS[0] / total: "that is the share of a smaller class; which one has the most balls?",
        1 - most / total: "that is how often it is wrong",
        1.0: "it never reads, and still it would be right each time?",
        0.0: "whenever the season is the one that it says, it is right",
    }
    for value, said in near.items():
        if abs(number - value) < 5e-3:
            return said
    if abs(number - 100 * most / total) < 0.5:
        return "as a share from 0 to 1, not in percent"
    if number in (most, total):
        return "balls alone are no share: divide those of one season by all"
    if not 0 <= number <= 1:
        return "accuracy is a share: from 0 to 1"
    return "it is right whenever the season is the one that it says: how often is that drawn?"


def oracle(x: Any, lengths: Any) -> Any:
    """Pooling at the last real token, by the package."""
    return pool(x, lengths, "last")


def _random(lengths: Sequence[int], places: int, width: int) -> tuple[Any, Any]:
    x = np.random.default_rng(places).standard_normal((len(lengths), places, width))
    return x.astype(np.float32), np.array(lengths, np.int32)


def _zeros() -> tuple[Any, Any]:
    x, lengths = _random([2, 4, 3], 5, 4)
    x[np.arange(3), lengths - 1] = 0.0  # a vector like any other
    return x, lengths


_PADDED = _random([4, 2, 7, 3], 7, 3)
TRIALS = (
    Trial("texts of several lengths", _PADDED),
    Trial("texts that fill their rows", _random([4, 4, 4], 4, 2)),
    Trial("texts of one token", _random([1, 1], 5, 3)),
    Trial("a single text", _random([3], 6, 2)),
    Trial("as many texts as places", _random([3, 1, 4, 2], 4, 4)),
    Trial("last vectors of zeros", _zeros()),
)


def _mistakes(x: Any, lengths: Any) -> list[tuple[Any, str]]:
    """What typical errors give, and what to say of them."""
    rows, (_, places, _) = np.arange(len(x)), x.shape
    real = (np.arange(places) < lengths[:, None])[..., None]
    return [
        (x[:, -1], "the last column is padding where a text is shorter; its length tells"),
        (x.mean(axis=1), "that is the mean over padding too; one vector is wanted, the last real"),
        (
            (x * real).sum(axis=1) / lengths[:, None],
            "that is the mean of the real ones; one of them is wanted",
        ),
        (x.sum(axis=1), "that is a sum; one vector is wanted, the last real one"),
        ((x * real).sum(axis=1), "that is a sum; one vector is wanted, the last real one"),
        (x.max(axis=1), "that is the largest of each number, of any place; take one place"),
        (x[:, 0], "that is the first token, which has seen nothing but itself"),
        (
            x[rows, np.minimum(lengths, places - 1)],
            "one place too far: counted from 0, the last of n stands at n - 1",
        ),
        (x[rows, lengths - 2], "one place too early: the last of n stands at n - 1"),
        (x[rows, -lengths], "that counts from the end of the row, where the padding stands"),
        (x[:, lengths[0] - 1], "one text's length is used for all; each row has its own"),
        (x[:, lengths.max() - 1], "the longest text's length is used for all; each has its own"),
        (x[:, lengths.min() - 1], "the shortest text's length is used for all; each has its own"),
    ]


def _known_mistake(answer: Answer) -> str | None:
    found = result(answer, *_PADDED)
    if np.allclose(found, result(oracle, *_PADDED), atol=1e-5):
        return None
    for wrong, said in _mistakes(*_PADDED):
        if np.allclose(found, wrong, atol=1e-5):
            return said
    return None


def _minds_zeros(answer: Answer) -> str | None:
    right = np.allclose(result(answer, *_PADDED), result(oracle, *_PADDED), atol=1e-5)
    if right and not np.allclose(result(answer, *_zeros()), 0.0, atol=1e-5):
        return "a real vector may be all zeros: decide by the lengths, not by the numbers"
    return None


@exercise("09.2")
def build_last_pooling(answer: Any) -> str | None:
    """A function that takes each text's last real vector."""
    if callable(answer):
        try:
            shape = result(answer, *_PADDED).shape
        except Exception:  # the reader's own; told below, with the trial's name
            shape = ()
        texts, _, width = _PADDED[0].shape
        if shape == (texts, texts, width):
            return (
                "every text is read at every text's length: for one vector each, pair row 0 with "
                "the first length, row 1 with the second, and so on"
            )
        if shape == (texts, 1, width):
            return "one vector of each text is wanted, (B, D): an axis of 1 is left over"
    return compare_calls(answer, oracle, TRIALS, (_known_mistake, _minds_zeros))


def suspect_batch(examples: Sequence[tuple[list[int], int]], width: int = 32) -> LabelledBatch:
    """The examples as a batch with one error, for the reader to find."""
    tokens = np.zeros((len(examples), width), np.int32)
    for row, (text, _) in zip(tokens, examples, strict=True):
        row[width - len(text) :] = text
    lengths, labels = zip(*((len(text), label) for text, label in examples), strict=True)
    return LabelledBatch(tokens, np.array(lengths, np.int32), np.array(labels, np.int32))


_NOT_SO = {
    "labels": "print `batch.labels` beside the classes in `examples`: they are the same",
    "lengths": "print `batch.lengths` beside the number of tokens in `examples`: they are the same",
    "cut": "count: every row of `batch.tokens` holds all the tokens of its text",
    "order": "decode a few rows of `batch.tokens`: each text stands in the row of its own label",
}


@exercise("09.3")
def find_the_bug(answer: Any) -> str | None:
    """What `suspect_batch` does wrong: it pads on the left, and lengths count from there."""
    return choose(answer, "padding", _NOT_SO)
