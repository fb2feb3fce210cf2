"""Answers to the exercises of notebook 07: the right ones, and wrong ones with their hints."""

import jax
import jax.numpy as jnp


def solution(logits, p):
    """Top-p: the least probability that remains, from the sum of those before it."""
    chances = jax.nn.softmax(logits)
    ordered = jnp.sort(chances)[::-1]
    before = jnp.cumsum(ordered) - ordered
    least = jnp.where(before < p, ordered, jnp.inf).min()
    return jnp.where(chances >= least, logits, -jnp.inf)


def _by_order(kept_of, fill=-jnp.inf):
    """A top-p of the places in order, from the likeliest on, that `kept_of` keeps."""

    def answer(logits, p):
        order = jnp.argsort(-logits)
        chances = jax.nn.softmax(logits)[order]
        kept = jnp.zeros(len(logits), bool).at[order].set(kept_of(chances, p))
        return jnp.where(kept, logits, fill)

    return answer


def _reached(chances, p):
    return jnp.cumsum(chances) - chances < p


def _sorted(logits, p):
    logits = jnp.sort(logits)[::-1]
    return jnp.where(_reached(jax.nn.softmax(logits), p), logits, -jnp.inf)


def _from_the_least(logits, p):
    order = jnp.argsort(logits)
    chances = jax.nn.softmax(logits)[order]
    kept = jnp.zeros(len(logits), bool).at[order].set(_reached(chances, p))
    return jnp.where(kept, logits, -jnp.inf)


def _of_logits(logits, p):
    return jnp.where(logits >= p * logits.max(), logits, -jnp.inf)


def _without_infinity(logits, p):
    finite = jnp.where(jnp.isfinite(logits), logits, 0.0)
    return solution(finite, p)


def _as_logs(logits, p):
    return jnp.log(jax.nn.softmax(solution(logits, p)))


def _overflowing(logits, p):
    powers = jnp.exp(logits)
    chances = powers / powers.sum()
    ordered = jnp.sort(chances)[::-1]
    least = jnp.where(jnp.cumsum(ordered) - ordered < p, ordered, jnp.inf).min()
    return jnp.where(chances >= least, logits, jnp.where(jnp.isnan(chances), chances, -jnp.inf))


RIGHT = {"07.1": 4, "07.2": solution, "07.3": "late"}

WRONG = {
    "07.1": [
        (3, "the one that reaches it remains too"),
        (2, "at temperature 1"),
        (1, "more are needed"),
        (8, "of the words"),
        (9, "cuts off nothing"),
        (6, "add up the probabilities"),
        (0.9, "a whole number"),
        ("four", "a whole number"),
        (None, "a whole number"),
    ],
    "07.2": [
        (_by_order(lambda chances, p: jnp.cumsum(chances) < p), "the word that reaches p"),
        (
            lambda logits, p: jnp.where(jax.nn.softmax(logits) >= p, logits, -jnp.inf),
            "rules everything out",
        ),
        (
            _by_order(lambda chances, p: _reached(chances, p) & (jnp.arange(len(chances)) > 0)),
            "the likeliest word is ruled out",
        ),
        (_by_order(_reached), "equal logits"),
        (_by_order(lambda chances, p: jnp.cumsum(chances) - 2 * chances < p), "are enough"),
        (_by_order(_reached, fill=0.0), "softmax of 0 is not 0"),
        (lambda logits, p: jax.nn.softmax(solution(logits, p)), "has probabilities"),
        (lambda logits, p: jnp.isfinite(solution(logits, p)), "is a mask"),
        (lambda logits, p: solution(logits, 1 - p), "the word that reaches p"),
        (_sorted, "come out sorted"),
        (_from_the_least, "the likeliest word is ruled out"),
        (_of_logits, "the word that reaches p"),
        (_without_infinity, "comes back"),
        (lambda logits, p: logits, "rules nothing out"),
        (_as_logs, "the logits that remain are changed"),
        (_overflowing, "in the hundreds"),
        (_by_order(_reached, fill=-1e9), "minus infinity itself"),
        (lambda logits, p: jax.nn.softmax(logits), "has probabilities"),
        (lambda logits, p: solution(logits, p)[:-1], "has shape"),
        (lambda logits, p: solution(logits, 0.9), "with p = 0.95 it keeps"),
        (lambda logits: logits, "raises"),
        (0.9, "a function is wanted"),
        (None, "a function is wanted"),
    ],
    "07.3": [
        ("overwritten", "one place more"),
        ("stale", "every later place is empty"),
        ("positions", "go on from the prompt"),
        ("prompt", "the first new token is right"),
        ("cache", "one of these words"),
        (["late"], "one of these words"),
        (None, "one of these words"),
    ],
}
