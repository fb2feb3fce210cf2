"""Exercises of notebook 00: the loss of a model that knows nothing, a probability, an order."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from course.checks import Trial, choose, compare_calls, exercise, number_in, result

Answer = Callable[..., Any]
V = 512


@exercise("00.1")
def loss_of_an_untrained_model(answer: Any) -> str | None:
    """The loss of a model that finds V = 512 tokens equally likely: ln 512."""
    number = number_in(answer)
    if number is None:
        return f"a number is wanted, and this is a {type(answer).__name__}"
    if abs(number - math.log(V)) < 0.05:
        return None
    if abs(number + math.log(V)) < 0.05:
        return "the logarithm of a probability is negative; the loss is minus that"
    named = {
        0: "a loss of 0 is that of a model that is always sure and always right",
        1: "1 would be a probability of 1 / e, about 0.37; how likely is one token of V?",
        V: "that is how many tokens there are; the loss is a logarithm",
        1 / V: "that is the probability of one token; the loss is minus its logarithm",
        math.log2(V): "that is the loss in bits, by log2; here it is in nats, by the natural one",
        math.log10(V): "that is by log10; the loss is by the natural logarithm",
    }
    for wrong, said in named.items():
        if math.isclose(number, wrong, rel_tol=0.01, abs_tol=1e-4):
            return said
    if number < 0:
        return "a loss is never negative: no probability is above 1"
    return "each of V tokens has a probability of 1 / V; the loss is minus the logarithm of that"


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def _one_impossible() -> np.ndarray:
    logits = _random(2, 6)
    logits[:, 3] = -np.inf  # a token that a sampler has ruled out
    return logits


TRIALS = (
    Trial("three places and five tokens", (_random(3, 5), np.int32(1))),
    Trial("a single place", (_random(1, 6), np.int32(5))),
    Trial("a vocabulary of one token", (_random(4, 1), np.int32(0))),
    Trial("equal logits", (np.ones((2, 8), np.float32), np.int32(7))),
    Trial("logits of zeros", (np.zeros((2, 4), np.float32), np.int32(0))),
    Trial(
        "logits of 10,000", (np.array([[1.0, 2.0], [10_000.0, 9_999.0]], np.float32), np.int32(1))
    ),
    Trial(
        "logits of -10,000",
        (np.array([[1.0, 2.0], [-10_000.0, -9_999.0]], np.float32), np.int32(1)),
    ),
    Trial("a token that cannot be", (_one_impossible(), np.int32(3))),
)


def oracle(logits: Any, token: Any) -> Any:
    """The probability of `token` after the last place of logits (T, V)."""
    return jax.nn.softmax(logits[-1])[token]


def _called(function: Answer) -> Answer:
    """`function` with its number as an array of one."""

    def call(logits: Any, token: Any) -> Any:
        found = function(logits, token)
        if found is None:
            return None
        found = jnp.asarray(found, jnp.float32)
        return found[None] if found.shape == () else found

    return call


def _named(answer: Answer) -> str | None:
    """The name of a typical error, where the answer makes it."""
    logits, token = (jnp.asarray(part) for part in TRIALS[0].args)
    found = result(answer, *TRIALS[0].args)
    last, powers = logits[-1], jnp.exp(logits)
    right = jax.nn.softmax(last)
    mistakes = [
        (jax.nn.softmax(logits, axis=0)[-1, token], "softmax runs over the places; it is to run "
         "over the vocabulary, the last axis"),
        (jax.nn.softmax(logits.ravel()).reshape(logits.shape)[-1, token], "the shares are of all "
         "places together; those of the last one sum to 1 by themselves"),
        (jax.nn.softmax(logits[0])[token], "that is the first place; what comes next is told by "
         "the last"),
        (jax.nn.softmax(logits, axis=-1)[:, token].mean(), "that is a mean over the places; what "
         "comes next is told by the last"),
        (jnp.log(right[token]), "that is the logarithm of the probability"),
        (-jnp.log(right[token]), "that is the loss, minus the logarithm of the probability"),
        (last[token], "that is the logit itself; softmax makes a probability of it"),
        (powers[-1, token], "the powers are to be divided by their sum"),
        (last[token] / last.sum(), "logits may be negative: raise e to each before you divide"),
        (jax.nn.sigmoid(last[token]), "that is a sigmoid, of one logit alone; here V share 1"),
        (1 - right[token], "that is the probability of all other tokens"),
        (right.max(), "that is the likeliest token; asked for is the one that is given"),
        (2 ** last[token] / (2**last).sum(), "softmax raises e to the logits, not 2"),
    ]  # fmt: skip
    for wrong, said in mistakes:
        if np.allclose(found, wrong, atol=1e-5):
            return said
    return None


def _overflows(answer: Answer) -> str | None:
    small, large = TRIALS[0].args, TRIALS[5].args
    right = np.allclose(result(answer, *small), result(_called(oracle), *small), atol=1e-5)
    if right and not np.isfinite(result(answer, *large)).all():
        return "e to the power of 10,000 is no float any more: take the largest logit away first"
    return None


@exercise("00.2")
def build_probability(answer: Any) -> str | None:
    """A function from logits to the probability of one token."""
    if not callable(answer):
        return f"a function is wanted, and this is a {type(answer).__name__}"
    return compare_calls(_called(answer), _called(oracle), TRIALS, (_named, _overflows))


def suspect_decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of `ids`, with one error, for the reader to find."""
    ids = list(ids)
    for place in range(0, len(ids) - 1, 2):
        ids[place], ids[place + 1] = ids[place + 1], ids[place]
    return tokenizer.decode(ids)


_NOT_SO = {
    "missing": "compare the lengths: as many characters come out as went in",
    "table": "try one id at a time: each gives its own text, so it is read in the right row",
    "shift": "try one id at a time: an id that was moved by 1 would be another text",
    "spaces": "a space belongs to the token that it begins; count them: none is lost or added",
}


@exercise("00.3")
def find_the_bug(answer: Any) -> str | None:
    """What `suspect_decode` does wrong: the order of the ids."""
    return choose(answer, "order", _NOT_SO)
