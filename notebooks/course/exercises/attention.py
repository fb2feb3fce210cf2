"""Exercises of notebook 04: the weight of a first token, causal attention, a swapped input."""

from collections.abc import Callable
from typing import Any

import numpy as np

import jaxgpt
from course.checks import Trial, choose, compare_calls, exercise, number_in, result
from jaxgpt import TorchGenerator
from jaxgpt.worked.attention import INPUTS

Answer = Callable[..., Any]


def oracle(x: Any, query: Any, key: Any, value: Any) -> Any:
    """Causal self-attention of the package, from weights alone."""
    query, key, value = ({"weight": weight} for weight in (query, key, value))
    return jaxgpt.causal_attention(x, query=query, key=key, value=value)


def _random(length: int, width: int, head: int, seed: int = 0) -> tuple[Any, ...]:
    draw = np.random.default_rng(seed)
    shapes = [(length, width), *[(width, head)] * 3]
    return tuple(draw.standard_normal(shape).astype(np.float32) for shape in shapes)


def _with_zero_scores() -> tuple[Any, ...]:
    x, query, key, value = _random(5, 4, 4)
    x[::2] = 0.0  # every score of these tokens is 0, and that is a score like any other
    return x, query, key, value


def _with_scores_below_zero() -> tuple[Any, ...]:
    x, query, _, value = _random(6, 8, 8)
    return x, 7 * query, -7 * query, value


TRIALS = (
    Trial("six random tokens", _random(6, 3, 2)),
    Trial("a text of one token", _random(1, 3, 2)),
    Trial("equal tokens", (np.ones((4, 3), np.float32), *_random(4, 3, 2)[1:])),
    Trial("tokens whose scores are 0", _with_zero_scores()),
    Trial("scores in the hundreds", tuple(7 * part for part in _random(8, 16, 16))),
    Trial("scores far below 0", _with_scores_below_zero()),
)


def _is_a_number(answer: Answer) -> str | None:
    undefined = np.isnan(result(answer, *_random(6, 3, 2))).any(axis=1)
    if not undefined.any():
        return None
    return (
        f"the result of token {undefined.argmax()} is no number (NaN): a row of the mask is minus "
        "infinity throughout, or 0 times infinity"
    )


def _uses_all(answer: Answer) -> str | None:
    args = _random(6, 3, 2)
    before = result(answer, *args)
    for place, name in enumerate(("query", "key", "value"), 1):
        other = (*args[:place], 3 - args[place], *args[place + 1 :])
        if np.allclose(before, result(answer, *other), atol=1e-6):
            return f"another `{name}` gives the same result: it is not used"
    return None


def _looks_ahead(answer: Answer) -> str | None:
    x, *maps = _random(6, 3, 2)
    other = x.copy()
    other[-1] += 5
    before, after = (result(answer, tokens, *maps) for tokens in (x, other))
    if np.allclose(before[:-1], after[:-1], atol=1e-5):
        return None
    place = int(np.nonzero(~np.isclose(before[:-1], after[:-1], atol=1e-5).all(1))[0][0])
    return f"the last token was changed, and the result of token {place} with it: it looks ahead"


def _leaves_itself_out(answer: Answer) -> str | None:
    x, query, key, value = _random(2, 3, 2)
    second = result(answer, x, query, key, value)[1]
    if not np.allclose(second, x[0] @ value, atol=1e-5):
        return None
    return "of two tokens, the second is given the first one's value: each sees itself as well"


def _sums_to_one(answer: Answer) -> str | None:
    x, query, key, _ = _random(6, 3, 2)
    x[:, 0] = 1.0
    ones = np.zeros((3, 2), np.float32)
    ones[0] = 1.0  # of every token, the value is then (1, 1)
    mean = result(answer, x, query, key, ones)
    if np.allclose(mean, 1.0, atol=1e-4):
        return None
    return (
        "where every value is 1, a mean of them must be 1; a row of weights here does not sum to "
        "1: scale and mask before the softmax, and take it over the keys, the last axis"
    )


def _minds_zeros(answer: Answer) -> str | None:
    def right(args: tuple[Any, ...]) -> bool:
        return np.allclose(result(answer, *args), result(oracle, *args), atol=1e-4)

    if right(_random(6, 3, 2)) and not right(_with_zero_scores()):
        return "a score that happens to be 0 is masked: decide by the places, not by the scores"
    return None


def _scales(answer: Answer) -> str | None:
    x, query, key, value = _random(6, 8, 16)
    x /= 4  # so that softmax does not saturate, where all scales are alike
    found = result(answer, x, query, key, value)
    for factor, what in (
        (4.0, "not divided by the root of K"),
        (0.25, "divided by K, not its root"),
    ):
        if np.allclose(found, result(oracle, x, query * factor, key, value), atol=1e-4):
            return f"the scores are {what}"
    if np.allclose(found, result(oracle, x, query * np.float32(2**0.5), key, value), atol=1e-4):
        return "the scores are divided by the root of the width D, not of the head's width K"
    if np.allclose(found, result(oracle, x, key, query, value), atol=1e-4):
        return "queries and keys are exchanged: a row is a query, a column a key"
    return None


@exercise("04.1")
def first_weight(answer: Any) -> str | None:
    """The weight of the first token on itself after masking: 1."""
    number = number_in(answer)
    if number is None:
        return f"a number is wanted, and this is a {type(answer).__name__}"
    if np.isclose(number, 1.0):
        return None
    if np.isclose(number, 0.0):
        return (
            "a weight of 0 would leave nothing: the mask hides later tokens, not the token itself"
        )
    if np.isclose(number, 1 / 6, atol=5e-3):
        return "equal shares of six; how many of the six does the mask leave to the first token?"
    unmasked = float(jaxgpt.attention_weights(INPUTS, INPUTS)[0, 0])
    if np.isclose(number, unmasked, atol=5e-4):
        return "that is its weight before the mask; softmax shares 1 among what the mask leaves"
    if number > 1 or number < 0:
        return "a weight is a share: from 0 to 1"
    return "softmax gives shares of 1; among how many tokens is it shared in the first row?"


@exercise("04.2")
def build_causal_attention(answer: Any) -> str | None:
    """A causal attention, held against the package's."""
    properties = (
        *(_is_a_number, _uses_all, _sums_to_one, _leaves_itself_out),
        *(_looks_ahead, _minds_zeros, _scales),
    )
    return compare_calls(answer, oracle, TRIALS, properties)


def suspect(x: Any) -> tuple[Any, Any]:
    """Weights (T, T) and result (T, K) of a self-attention with one error, to be found."""
    generator = TorchGenerator(789)
    query, key, value = (generator.linear(3, 2, bias=False)["weight"] for _ in range(3))
    weights = jaxgpt.attention_weights(x @ key, x @ query, scale=2**-0.5)
    return weights, weights @ (x @ value)


_NOT_SO = {
    "scale": "a scale keeps the order within a row; compare `weights.argmax(-1)` with your own",
    "axis": "print `weights.sum(-1)`: each row of the suspect's sums to 1, as it should",
    "values": "print `weights @ (x @ value)`: with your values, that is the suspect's own result",
    "mask": "the lesson's variant has no mask either: the first row of both looks at all six",
}


@exercise("04.3")
def find_the_bug(answer: Any) -> str | None:
    """Which error `suspect` has: queries and keys are exchanged."""
    return choose(answer, "exchanged", _NOT_SO)
