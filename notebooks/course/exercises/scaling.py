"""Exercises of notebook 12: bytes of an optimizer, a gradient in shares, a loss over devices."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from course.checks import Trial, choose, compare_calls, exercise, number_in, result
from jaxgpt import count_parameters, get_preset

Answer = Callable[..., Any]

_GB = 4 * count_parameters(get_preset("gpt2").model) / 1e9
"""One float32 for each parameter of GPT-2's smallest model."""

_OTHERWISE = (
    (1 * _GB, "that is one running mean; Adam keeps two"),
    (3 * _GB, "the parameters themselves are counted too; asked for are the two means alone"),
    (
        4 * _GB,
        "that is 16 bytes a parameter, with itself and its gradient; asked for are the means",
    ),
    (2 * _GB / 4, "each number is counted as one byte; a float32 has four"),
    (1 * _GB / 4, "that is the number of parameters, in billions; how many bytes stand by each?"),
    (2 * _GB * 8, "those are bits; a byte has 8 of them"),
    (2 * _GB * 1e3, "those are megabytes; a GB has a thousand of them"),
    (2 * _GB * 1e9, "those are bytes; a GB has a billion of them"),
    (2 * _GB * 1e9 / 2**30, "those are GiB, of 2 to the 30 bytes; a GB is a billion"),
)


@exercise("12.1")
def bytes_of_adam(answer: Any) -> str | None:
    """GB of Adam's two running means for 124 million parameters: 1.0."""
    number = number_in(answer)
    if number is None:
        return f"a number is wanted, and this is a {type(answer).__name__}"
    if abs(number / (2 * _GB) - 1) < 0.015:
        return None
    for wrong, said in _OTHERWISE:
        if abs(number / wrong - 1) < 0.03:
            return said
    return "how many numbers does Adam keep for each parameter, and of how many bytes is each?"


def oracle(x: Any, y: Any, w: Any, devices: int) -> Any:
    """What each device adds to the gradient of the mean of (x @ w - y)²: (devices, D)."""
    terms = 2 * (x @ w - y)[:, None] * x / len(x)
    return jnp.stack([part.sum(axis=0) for part in jnp.split(terms, devices)])


def _random(rows: int, width: int, devices: int, seed: int = 0) -> tuple[Any, ...]:
    draw = np.random.default_rng(seed)
    x, y, w = (draw.standard_normal(shape) for shape in ((rows, width), rows, width))
    return *(part.astype(np.float32) for part in (x, y, w)), devices


def _without_error() -> tuple[Any, ...]:
    x, _, w, devices = _random(6, 2, 3)
    return x, x @ w, w, devices


_EIGHT = _random(8, 3, 4)
TRIALS = (
    Trial("eight rows on four devices", _EIGHT),
    Trial("one device", _random(6, 3, 1)),
    Trial("a row for each device", _random(5, 3, 5)),
    Trial("one row on one device", _random(1, 4, 1)),
    Trial("rows of one number", _random(12, 1, 3)),
    Trial("equal rows", (np.ones((8, 3), np.float32), *_EIGHT[1:])),
    Trial("rows without an error", _without_error()),
    Trial("more numbers in a row than rows", _random(4, 9, 2)),
)


def _is_the_sum(answer: Answer) -> str | None:
    found = result(answer, *_EIGHT)
    if found.shape == (3,) or found.shape == (1, 3):
        return "that is one gradient for all; give what each device adds, before the sum"
    if found.shape == (3, 4):
        return "devices are the columns; a row for each device is wanted, (devices, D)"
    if found.shape == (4, 2, 3):
        return "those are the terms of each row; a device adds up those of its own rows"
    return None


def _in_the_whole(answer: Answer) -> str | None:
    found, wanted = result(answer, *_EIGHT), result(oracle, *_EIGHT)

    def is_wanted_times(factor: float) -> bool:
        return np.allclose(found, factor * wanted, rtol=1e-4, atol=1e-5)

    factors = (
        (4, "each device divides by its own number of rows; the mean is over all rows"),
        (8, "nothing divides by the number of rows: the loss is a mean"),
        (0.25, "it is divided by the number of devices as well; the shares are to add up"),
        (1 / 3, "it is divided by the width too; the loss is a mean over rows alone"),
        (0.5, "a square's slope is twice its root: a factor of 2 is missing"),
        (-1, "the sign is wrong: the error is x @ w - y, not y - x @ w"),
    )
    return next((said for factor, said in factors if is_wanted_times(factor)), None)


def _looks_at_others(answer: Answer) -> str | None:
    x, y, w, devices = _EIGHT
    found, wanted = result(answer, *_EIGHT), result(oracle, *_EIGHT)
    order = np.arange(8).reshape(2, 4).T.ravel()  # rows 0 and 4, 1 and 5, ...
    if np.allclose(found, result(oracle, x[order], y[order], w, devices), rtol=1e-4, atol=1e-5):
        return "device d takes every fourth row; its rows are neighbours, as of a cut"
    if np.allclose(found, wanted[::-1], rtol=1e-4, atol=1e-5):
        return "the devices are in the wrong order: the first rows are those of device 0"
    other = y.copy()
    other[-2:] += 5  # the rows of the last device
    near = np.isclose(found, result(answer, x, other, w, devices), atol=1e-5)
    moved = np.asarray(~near.all(axis=1))
    if moved[:-1].any():
        place = int(np.nonzero(moved)[0][0])
        return (
            f"the last device's targets were changed, and the share of device {place} with them: "
            "each sees its own rows alone"
        )
    return None


@exercise("12.2")
def build_shares(answer: Any) -> str | None:
    """The shares of a gradient, held against a cut of its terms."""
    if not callable(answer):
        return f"a function is wanted, and this is a {type(answer).__name__}"
    try:
        if said := _is_the_sum(answer):
            return said
    except Exception:  # named by `compare_calls`
        pass
    return compare_calls(answer, oracle, TRIALS, (_in_the_whole, _looks_at_others))


def suspect(losses: Any, counted: Any, devices: int) -> float:
    """A loss over devices, of losses and whether each is counted, with an error to be found."""
    means = []
    for part, mask in zip(np.split(losses, devices), np.split(counted, devices), strict=True):
        means.append((part * mask).sum() / max(mask.sum(), 1))
    return float(np.mean(means))


_NOT_SO = {
    "rows": "add 1 to one counted loss, in any row: the result grows, so none is left out",
    "ignored": "make a loss that is not counted a thousand: the result stays what it was",
    "order": "give the rows the other way round, with their counts: the result stays",
    "sum": "give losses that are all 1: the result is 1, so sums are divided by something",
}


@exercise("12.3")
def find_the_bug(answer: Any) -> str | None:
    """What is wrong with `suspect`: a mean of means, which weighs unequal shares alike."""
    return choose(answer, "mean", _NOT_SO)
