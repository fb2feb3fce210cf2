"""Answers to the exercises of notebook 08: the right ones, and wrong ones with their hints."""

import jax.numpy as jnp


def solution(weights, tokens):
    """Mean weight on the keys behind earlier occurrences of each query's token."""
    follows = jnp.tril(tokens[:, None] == jnp.roll(tokens, 1).at[0].set(-1))
    counted = jnp.count_nonzero(follows.any(axis=1))
    return jnp.where(follows, weights, 0.0).sum() / jnp.maximum(counted, 1)


def _keys(tokens, offset=1):
    before = jnp.concatenate([jnp.full(offset, -1), tokens])[: len(tokens)]
    return jnp.tril(tokens[:, None] == before)


def _itself(weights, tokens):
    keys = jnp.tril(tokens[:, None] == tokens, -1)
    return (weights * keys).sum() / jnp.maximum(keys.any(-1).sum(), 1)


def _two_behind(weights, tokens):
    keys = _keys(tokens, 2) & (jnp.arange(len(tokens)) - 2 < jnp.arange(len(tokens))[:, None])
    return (weights * keys).sum() / jnp.maximum(keys.any(-1).sum(), 1)


def _all_queries(weights, tokens):
    return (weights * _keys(tokens)).sum(-1).mean()


def _later_too(weights, tokens):
    before = jnp.concatenate([jnp.full(1, -1), tokens[:-1]])
    keys = tokens[:, None] == before
    return (weights * keys).sum() / jnp.maximum(keys.any(-1).sum(), 1)


def _pairs(weights, tokens):
    return (weights * _keys(tokens)).sum() / jnp.maximum(_keys(tokens).sum(), 1)


def _latest(weights, tokens):
    keys = _keys(tokens)
    last = len(tokens) - 1 - keys[:, ::-1].argmax(-1)
    picked = jnp.take_along_axis(weights, last[:, None], -1)[:, 0]
    return (picked * keys.any(-1)).sum() / jnp.maximum(keys.any(-1).sum(), 1)


def _first(weights, tokens):
    keys = _keys(tokens)
    picked = jnp.take_along_axis(weights, keys.argmax(-1)[:, None], -1)[:, 0]
    return (picked * keys.any(-1)).sum() / jnp.maximum(keys.any(-1).sum(), 1)


def _largest(weights, tokens):
    keys = _keys(tokens)
    hits = jnp.take_along_axis(keys, weights.argmax(-1)[:, None], -1)
    return hits.sum() / jnp.maximum(keys.any(-1).sum(), 1)


def _period(weights, tokens):
    period = max(len(tokens) // 2, 1)
    return jnp.diagonal(weights, 1 - period).mean()


def _nan(weights, tokens):
    return (weights * _keys(tokens)).sum() / _keys(tokens).any(-1).sum()


def _not_itself(weights, tokens):
    keys = jnp.tril(_keys(tokens), -1)
    return (weights * keys).sum() / jnp.maximum(keys.any(-1).sum(), 1)


RIGHT = {"08.1": 0.5, "08.2": solution, "08.3": "scores"}

WRONG = {
    "08.1": [
        (0, "while the other is there"),
        (1, "all there is to share is 1"),
        (0.25, "two orders, not four"),
        (2, "no order gains more than 1"),
        (float("nan"), "no order gains more than 1"),
        (0.7, "write both orders down"),
        ("half", "a number is wanted"),
        (None, "a number is wanted"),
    ],
    "08.2": [
        (_itself, "on the earlier occurrence itself"),
        (_two_behind, "two places behind"),
        (_all_queries, "the mean is over all queries"),
        (_later_too, "comes only later"),
        (_pairs, "over pairs of query and key"),
        (_first, "only the first occurrence"),
        (_latest, "only the last occurrence"),
        (_largest, "whose largest weight"),
        (lambda w, t: (w * _keys(t)).sum(), "not divided"),
        (lambda w, t: solution(w.T, t), "a row is a query"),
        (_not_itself, "neighbours"),
        (_period, "not from places"),
        (_nan, "where no query counts, it is 0"),
        (lambda w, t: (w * _keys(t)).sum(-1), "has shape"),
        (lambda w: w.mean(), "raises"),
        ("score", "a function is wanted"),
    ],
    "08.3": [
        ("layer", "layer by layer"),
        ("head", "the other heads"),
        ("place", "at every place"),
        ("nothing", "something was changed"),
        ("weights", "one of these words"),
        (["scores"], "one of these words"),
    ],
}
