"""Exercises of notebook 03: a shape, sinusoidal positions, and an embedding with one error."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from course.checks import Trial, choose, exercise, whole_numbers_in
from jaxgpt import sinusoidal_positions

RIGHT_SHAPE = (8, 4, 16)


@exercise("03.1")
def shape_of_the_sum(answer: Any) -> str | None:
    """The shape of (8, 4, 16) token vectors plus (4, 16) position vectors."""
    sizes = whole_numbers_in(answer)
    if sizes is None:
        return "a shape is wanted, such as (2, 3)"
    answer = tuple(sizes)
    if answer == RIGHT_SHAPE:
        return None
    if answer == (8, 4, 32):
        return "the vectors are added, not put side by side: the width stays"
    if answer == (8, 8, 16):
        return "positions are no further tokens: each is added to the token that stands there"
    if answer == (4, 16):
        return "every text of the batch keeps its own vectors; positions are added to each of them"
    return "adding number by number changes no shape; positions are the same for every text"


_TRIALS = (
    Trial("4 positions of width 2", (4, 2)),
    Trial("one position", (1, 8)),
    Trial("50 positions of width 16", (50, 16)),
    Trial("2,000 positions of width 64", (2000, 64)),
)


def _mistakes(length: int, width: int) -> list[tuple[np.ndarray, str]]:
    """What typical errors give, and what to say of them."""
    right = np.asarray(sinusoidal_positions(length + 1, width))
    places = np.arange(length)[:, None]
    angles = places * 10_000.0 ** (-np.arange(0, width, 2) / width)
    halves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    swapped = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(length, width)
    column = np.arange(width)

    def of_exponent(exponent: Any) -> np.ndarray:
        angles = places * 10_000.0 ** (-exponent / width)
        return np.where(column % 2, np.cos(angles), np.sin(angles))

    return [
        (halves, "all sines stand before all cosines; they take turns, column by column"),
        (swapped, "cosines stand in the even columns; sines come first"),
        (right[1:], "positions count from 0, and here the first is 1"),
        *(
            (
                of_exponent(exponent),
                "a pair of columns has one wavelength: its exponent is 2 i / D for pair i",
            )
            for exponent in (column // 2, 4 * (column // 2), column, 2 * column)
        ),
        (np.sin(np.repeat(angles, 2, axis=1)), "the odd columns are cosines, and here sines"),
    ]


@exercise("03.2")
def build_positions(answer: Any) -> str | None:
    """A function that makes sinusoidal positions."""
    if not callable(answer):
        return f"a function is wanted, and this is a {type(answer).__name__}"
    make: Callable[..., Any] = answer
    for trial in _TRIALS:
        length, width = trial.args
        try:
            found = np.asarray(make(length, width))
        except Exception as error:  # the reader's own
            return f"on {trial.title} it raises {type(error).__name__}: {error}".splitlines()[0]
        if found.shape != (length, width):
            return f"on {trial.title} its result has shape {found.shape}, not {(length, width)}"
        right = np.asarray(sinusoidal_positions(length, width))
        if np.allclose(found, right, atol=2e-6):
            continue
        near = np.allclose(found[:4], right[:4], atol=2e-6)
        if near and np.allclose(found, right, atol=1e-3):
            return "far positions are a little off: multiply in float64, float32 is too rough there"
        for wrong, said in _mistakes(length, width):
            if np.allclose(found, wrong, atol=2e-6):
                return said
        place = tuple(int(index[0]) for index in np.nonzero(~np.isclose(found, right, atol=2e-6)))
        return (
            f"on {trial.title} the number at {list(place)} is {found[place]:.4f} in place of "
            f"{right[place]:.4f}"
        )
    return None


def suspect(tokens: Any, tokens_table: Any, positions_table: Any) -> Any:
    """Token and position embedding with one error, for the reader to find."""
    places = jnp.arange(tokens.shape[-1]) + 1  # JAX takes the last row where there is none
    return tokens_table[tokens] + positions_table[places]


_NOT_SO = {
    "scale": "take positions of zeros: what is left are the token's own vectors, unscaled",
    "tables": "take positions of zeros: each token still has its own row, so the tables are right",
    "product": "take positions of ones: each number grows by 1, so they are added",
}


@exercise("03.3")
def find_the_bug(answer: Any) -> str | None:
    """What `suspect` does wrong: positions count from 1."""
    return choose(answer, "places", _NOT_SO)
