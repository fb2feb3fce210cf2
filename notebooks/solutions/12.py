"""Answers to the exercises of notebook 12: the right ones, and wrong ones with their hints."""

import jax.numpy as jnp


def solution(x, y, w, devices):
    """The terms of all rows, then the sum over each device's run of rows."""
    terms = 2 * (x @ w - y)[:, None] * x / len(x)
    return terms.reshape(devices, -1, x.shape[1]).sum(axis=1)


def _terms(x, y, w, factor):
    return factor * (x @ w - y)[:, None] * x


def _by_its_own_rows(x, y, w, devices):
    return _terms(x, y, w, 2).reshape(devices, -1, x.shape[1]).mean(axis=1)


def _every_fourth_row(x, y, w, devices):
    terms = _terms(x, y, w, 2 / len(x))
    return jnp.stack([terms[device::devices].sum(axis=0) for device in range(devices)])


def _all_alike(x, y, w, devices):
    return jnp.tile(_terms(x, y, w, 2 / len(x)).sum(axis=0) / devices, (devices, 1))


def _of_all_targets(x, y, w, devices):
    shares = solution(x, y, w, devices)
    return shares.at[1:2].add(y.sum())


def _first_row_twice(x, y, w, devices):
    return solution(x.at[1:2].set(x[:1]), y, w, devices)


RIGHT = {"12.1": 1.0, "12.2": solution, "12.3": "mean"}

WRONG = {
    "12.1": [
        (0.5, "Adam keeps two"),
        (1.5, "counted too"),
        (2.0, "16 bytes a parameter"),
        (0.25, "as one byte"),
        (0.124, "number of parameters"),
        (8, "those are bits"),
        (995, "those are megabytes"),
        (995_518_464, "those are bytes"),
        (0.927, "GiB"),
        (3e3, "how many numbers does Adam keep"),
        (float("nan"), "how many numbers does Adam keep"),
        (True, "a number is wanted"),
        ("1 GB", "a number is wanted"),
    ],
    "12.2": [
        (_by_its_own_rows, "its own number of rows"),
        (lambda x, y, w, n: solution(x, y, w, n) * len(x), "nothing divides"),
        (lambda x, y, w, n: solution(x, y, w, n) / n, "number of devices as well"),
        (lambda x, y, w, n: solution(x, y, w, n) / len(w), "divided by the width"),
        (lambda x, y, w, n: solution(x, y, w, n) / 2, "a factor of 2 is missing"),
        (lambda x, y, w, n: -solution(x, y, w, n), "the sign is wrong"),
        (lambda x, y, w, n: solution(x, y, w, n).sum(axis=0), "one gradient for all"),
        (lambda x, y, w, n: solution(x, y, w, n).T, "a row for each device"),
        (lambda x, y, w, n: _terms(x, y, w, 2).reshape(n, -1, len(w)), "terms of each row"),
        (_every_fourth_row, "neighbours"),
        (lambda x, y, w, n: solution(x, y, w, n)[::-1], "wrong order"),
        (_all_alike, "its own rows alone"),
        (_of_all_targets, "its own rows alone"),
        (_first_row_twice, "in place of"),
        (lambda x, y, w, n: solution(x, y, w, 4), "raises"),
        (lambda x, y, w: solution(x, y, w, 4), "raises TypeError"),
        (lambda *args: "shares", "has shape ()"),
        (lambda *args: None, "returns nothing"),
        (None, "a function is wanted"),
    ],
    "12.3": [
        ("rows", "none is left out"),
        ("ignored", "stays what it was"),
        ("order", "the other way round"),
        ("sum", "divided by something"),
        ("average", "one of these words"),
        (["mean"], "one of these words"),
    ],
}
