"""Answers to the exercises of notebook 00: the right ones, and wrong ones with their hints."""

import math

import jax
import jax.numpy as jnp


def solution(logits, token):
    """Softmax over the vocabulary at the last place, without overflow."""
    last = logits[-1]
    powers = jnp.exp(last - last.max())
    return powers[token] / powers.sum()


def _without_maximum(logits, token):
    powers = jnp.exp(logits[-1])
    return powers[token] / powers.sum()


RIGHT = {"00.1": math.log(512), "00.2": solution, "00.3": "order"}

WRONG = {
    "00.1": [
        (0, "always sure"),
        (1, "probability of 1 / e"),
        (512, "how many tokens"),
        (1 / 512, "probability of one token"),
        (9, "in bits"),
        (math.log10(512), "log10"),
        (-math.log(512), "minus that"),
        (-3, "never negative"),
        (100.0, "each of V tokens"),
        (math.nan, "each of V tokens"),
        ("ln 512", "a number is wanted"),
    ],
    "00.2": [
        (_without_maximum, "take the largest logit away"),
        (lambda logits, token: jax.nn.softmax(logits, axis=0)[-1, token], "over the places"),
        (lambda logits, token: jax.nn.softmax(logits[0])[token], "the first place"),
        (lambda logits, token: jax.nn.softmax(logits)[:, token].mean(), "a mean over the places"),
        (lambda logits, token: jax.nn.log_softmax(logits[-1])[token], "the logarithm"),
        (lambda logits, token: -jax.nn.log_softmax(logits[-1])[token], "the loss"),
        (lambda logits, token: logits[-1, token], "the logit itself"),
        (lambda logits, token: jnp.exp(logits[-1, token]), "divided by their sum"),
        (lambda logits, token: logits[-1, token] / logits[-1].sum(), "may be negative"),
        (lambda logits, token: jax.nn.sigmoid(logits[-1, token]), "sigmoid"),
        (lambda logits, token: jax.nn.softmax(logits[-1]).max(), "the likeliest token"),
        (lambda logits, token: jax.nn.softmax(logits.ravel())[-logits.shape[1] + token],
         "all places together"),
        (lambda logits, token: jax.nn.softmax(logits[-1])[token + 1], "in place of"),
        (lambda logits, token: jax.nn.softmax(logits[-1]), "has shape"),
        (lambda logits, token: None, "returns nothing"),
        (lambda logits: logits[-1], "raises TypeError"),
        (0.5, "a function is wanted"),
    ],
    "00.3": [
        ("missing", "compare the lengths"),
        ("table", "one id at a time"),
        ("shift", "moved by 1"),
        ("spaces", "none is lost"),
        ("reversed", "one of these words"),
    ],
}  # fmt: skip
