"""Answers to the exercises of notebook 09: the right ones, and wrong ones with their hints."""

import jax.numpy as jnp


def solution(x, lengths):
    """Row i at place lengths[i] - 1, by two indexes side by side."""
    return x[jnp.arange(len(x)), lengths - 1]


def _by_numbers(x, lengths):
    filled = jnp.arange(x.shape[1]) < lengths[:, None]
    real = filled & (x != 0).any(axis=2)
    place = jnp.where(real, jnp.arange(x.shape[1]), 0).max(axis=1)
    return x[jnp.arange(len(x)), place]


def _mean(x, lengths):
    real = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]
    return (x * real).sum(axis=1) / lengths[:, None]


RIGHT = {"09.1": 4 / 13, "09.2": solution, "09.3": "padding"}

WRONG = {
    "09.1": [
        (0.25, "equally frequent"),
        (3 / 13, "a smaller class"),
        (9 / 13, "how often it is wrong"),
        (30.8, "not in percent"),
        (4, "divide those of one season"),
        (1.0, "never reads"),
        (0, "whenever the season"),
        (-2, "from 0 to 1"),
        (0.9, "how often is that drawn"),
        ("summer", "a number is wanted"),
    ],
    "09.2": [
        (lambda x, lengths: x[:, -1], "padding where a text is shorter"),
        (lambda x, lengths: x.mean(axis=1), "the mean over padding"),
        (_mean, "the mean of the real ones"),
        (lambda x, lengths: x.sum(axis=1), "that is a sum"),
        (lambda x, lengths: x.max(axis=1), "the largest of each number"),
        (lambda x, lengths: x[:, 0], "the first token"),
        (lambda x, lengths: x[jnp.arange(len(x)), lengths], "one place too far"),
        (lambda x, lengths: x[jnp.arange(len(x)), lengths - 2], "one place too early"),
        (lambda x, lengths: x[jnp.arange(len(x)), -lengths], "from the end of the row"),
        (lambda x, lengths: x[:, lengths[0] - 1], "one text's length is used for all"),
        (lambda x, lengths: x[:, lengths.max() - 1], "padding where a text is shorter"),
        (lambda x, lengths: x[:, lengths.min() - 1], "the shortest text's length"),
        (lambda x, lengths: x[:, lengths - 1], "pair row 0 with the first length"),
        (lambda x, lengths: x[jnp.arange(len(x)), lengths - 1][:, None], "an axis of 1"),
        (lambda x, lengths: x[0, lengths - 1], "in place of"),
        (_by_numbers, "decide by the lengths"),
        (lambda x: x[:, -1], "raises"),
        (7, "a function is wanted"),
    ],
    "09.3": [
        ("labels", "beside the classes"),
        ("lengths", "beside the number of tokens"),
        ("cut", "all the tokens of its text"),
        ("order", "the row of its own label"),
        ("left", "one of these words"),
    ],
}
