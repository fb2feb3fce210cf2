"""Answers to the exercises of notebook 04: the right ones, and wrong ones with their hints."""

import jax
import jax.numpy as jnp

from jaxgpt import linear


def solution(x, query, key, value):
    """Causal self-attention: mask, then softmax over the keys."""
    queries, keys, values = (linear(x, weight=weight) for weight in (query, key, value))
    scores = queries @ keys.T / jnp.sqrt(queries.shape[-1])
    mask = jnp.tril(jnp.ones(scores.shape, bool))
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1) @ values


def _attention(x, query, key, value, *, weigh, scale=None):
    queries, keys, values = x @ query, x @ key, x @ value
    scale = queries.shape[-1] ** -0.5 if scale is None else scale(x, queries)
    return weigh(queries @ keys.T * scale) @ values


def _masked(scores, keep):
    return jax.nn.softmax(jnp.where(keep, scores, jnp.finfo(jnp.float32).min), axis=-1)


def _lower(scores, k=0):
    return jnp.tril(jnp.ones(scores.shape, bool), k)


def _causal(scores):
    return _masked(scores, _lower(scores))


def _wrong(weigh=_causal, scale=None):
    return lambda *args: _attention(*args, weigh=weigh, scale=scale)


RIGHT = {"04.1": 1, "04.2": solution, "04.3": "exchanged"}

WRONG = {
    "04.1": [
        (0, "not the token itself"),
        (1 / 6, "how many of the six"),
        (0.2098, "before the mask"),
        (2.0, "from 0 to 1"),
        ("one", "a number is wanted"),
        (jnp.array(True), "a number is wanted"),
    ],
    "04.2": [
        (_wrong(lambda s: jax.nn.softmax(s, -1) * _lower(s)), "mask before the softmax"),
        (_wrong(lambda s: _masked(s, ~_lower(s, -1))), "looks ahead"),
        (_wrong(lambda s: jax.nn.softmax(s, -1)), "looks ahead"),
        (_wrong(lambda s: _masked(s, _lower(s, 1))), "looks ahead"),
        (_wrong(lambda s: _masked(s, _lower(s, -1))), "each sees itself"),
        (_wrong(lambda s: _masked(s, jnp.tril(s) != 0)), "happens to be 0"),
        (_wrong(lambda s: jax.nn.softmax(jnp.where(_lower(s), s, -1e9), 0)), "over the keys"),
        (_wrong(lambda s: jax.nn.softmax(jnp.where(_lower(s), s, -100.0))), "far below 0"),
        (_wrong(lambda s: jax.nn.softmax(jnp.where(_lower(s, -1), s, -jnp.inf))), "token 0 is no"),
        (_wrong(lambda s: jax.nn.softmax(s + (1 - _lower(s)) * -jnp.inf)), "0 times infinity"),
        (_wrong(lambda s: jax.nn.softmax(s * _lower(s))), "looks ahead"),
        (lambda x, q, k, v: solution(x, q, q, v), "another `key`"),
        (lambda x, q, k, v: solution(x, q, k, k), "another `value`"),
        (lambda *args: None, "returns nothing"),
        (_wrong(scale=lambda x, q: 1.0), "not divided by the root"),
        (_wrong(scale=lambda x, q: 1 / q.shape[-1]), "divided by K, not its root"),
        (_wrong(scale=lambda x, q: x.shape[-1] ** -0.5), "not of the head's width"),
        (lambda x, q, k, v: solution(x, k, q, v), "exchanged"),
        (lambda x, q, k, v: solution(x, q, k, v) @ jnp.ones((v.shape[1], 1)), "has shape"),
        (lambda x, q, k, v: x @ q @ k, "raises"),
        (3, "a function is wanted"),
    ],
    "04.3": [
        ("scale", "keeps the order"),
        ("axis", "sums to 1"),
        ("values", "with your values"),
        ("mask", "no mask either"),
        ("softmax", "one of these words"),
    ],
}
