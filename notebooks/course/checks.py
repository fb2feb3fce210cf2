"""Checks of a reader's answers: of an exercise, and of a function beside the package's own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from textwrap import shorten
from typing import Any

import jax.numpy as jnp
import numpy as np

MODULES = {
    **{"00": "path", "01": "tokens", "02": "windows", "03": "vectors", "04": "attention"},
    **{"05": "model", "06": "pretraining", "07": "generation", "08": "opening"},
    **{"09": "classification", "10": "instructions", "11": "parity", "12": "scaling"},
}
"""The part of an exercise's id before the dot, and the module of `course.exercises` that has it."""

_LONGEST = 400  # characters of a hint

_CHECKS: dict[str, Callable[[Any], str | None]] = {}


def exercise(name: str) -> Callable[[Callable[[Any], str | None]], Callable[[Any], str | None]]:
    """Register a function as the check of exercise `name`: of an answer, a hint; None if right."""

    def register(function: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
        _CHECKS[name] = function
        return function

    return register


def hint(name: str, answer: Any) -> str | None:
    """The hint for an answer to exercise `name`, in one line; None if it is right.

    What a check cannot handle is an answer of the wrong kind. Raises KeyError for an unknown name.
    """
    import_module(f"course.exercises.{MODULES[name.partition('.')[0]]}")
    try:
        found = _CHECKS[name](answer)
    except Exception as error:
        kind = type(answer).__name__
        found = f"a {kind} like this cannot be an answer ({type(error).__name__}: {error})"
    return found and shorten(" ".join(found.split()), _LONGEST)


def choose(answer: Any, right: str, wrong: Mapping[str, str]) -> str | None:
    """The hint for an answer that is one of a few words; `wrong` has that of each but `right`."""
    word = answer.strip().lower() if isinstance(answer, str) else None
    if word not in (right, *wrong):
        return f"one of these words is wanted: {', '.join(sorted((right, *wrong)))}"
    return wrong.get(word)


def check(name: str, answer: Any) -> None:
    """Print whether an answer to exercise `name` is right, or a hint; `...` leaves it open."""
    if answer is ...:
        print(f"{name} open: put your answer in place of the dots, and run this cell again")
    elif found := hint(name, answer):
        print(f"{name} not yet: {found}")
    else:
        print(f"{name} right")


def number_in(answer: Any) -> float | None:
    """The number that an answer is, also as an array of one; None if it is none."""
    try:
        one = answer.item() if hasattr(answer, "item") else answer
        return None if isinstance(one, bool | str | bytes) else float(one)
    except (TypeError, ValueError, OverflowError):
        return None


def whole_number_in(answer: Any) -> int | None:
    """The whole number that an answer is, of any type of number; None if it is none."""
    number = number_in(answer)
    return int(number) if number is not None and number.is_integer() else None


def whole_numbers_in(answer: Any) -> list[int] | None:
    """The whole numbers that an answer is a list or an array of; None if it is none."""
    if isinstance(answer, str | bytes | set | dict) or not isinstance(answer, Iterable):
        return None
    numbers = [whole_number_in(item) for item in answer]
    whole = [number for number in numbers if number is not None]
    return whole if len(whole) == len(numbers) else None


def exercises(number: str) -> list[str]:
    """The ids of a notebook's exercises, in order."""
    import_module(f"course.exercises.{MODULES[number]}")
    return sorted(name for name in _CHECKS if name.startswith(f"{number}."))


def same(yours: Any, packages: Any, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Print that two arrays are equal but for rounding; raise AssertionError if they are not.

    The bounds are some 100 roundings of float32, relative to an element and absolute.
    """
    yours, packages = np.asarray(yours), np.asarray(packages)
    assert yours.shape == packages.shape, f"shape {yours.shape}, and the package's {packages.shape}"
    np.testing.assert_allclose(yours, packages, rtol=rtol, atol=atol)
    furthest = np.abs(yours.astype(float) - packages).max()
    distance = f"at most {furthest:.0e} apart" if furthest else "exactly"
    print(f"same: {yours.size} number{'s' * (yours.size != 1)}, {distance}")


@dataclass(frozen=True)
class Trial:
    """Arguments that an answer is called with, and what to call them in a hint."""

    title: str
    args: tuple[Any, ...]


def result(function: Callable[..., Any], *args: Any) -> np.ndarray:
    """What a function makes of `args`, with JAX's arrays in place of NumPy's."""
    given = (jnp.asarray(arg) if isinstance(arg, np.ndarray) else arg for arg in args)
    return np.asarray(function(*given))


def compare_calls(
    answer: Any,
    oracle: Callable[..., Any],
    trials: Sequence[Trial],
    properties: Sequence[Callable[[Callable[..., Any]], str | None]] = (),
) -> str | None:
    """A hint where the function `answer` is not `oracle`: what it breaks, or where it differs.

    First that it runs and has the right shape, then `properties`, which know what an error is
    called, then the trials number by number.
    """
    if not callable(answer):
        return f"a function is wanted, and this is a {type(answer).__name__}"
    for trial in trials:
        try:
            found = result(answer, *trial.args)
        except Exception as error:  # the reader's own
            return f"on {trial.title} it raises {type(error).__name__}: {error}".splitlines()[0]
        if found.dtype == object and found.shape == () and found.item() is None:
            return f"on {trial.title} it returns nothing"
        wanted = result(oracle, *trial.args)
        if found.shape != wanted.shape:
            return f"on {trial.title} its result has shape {found.shape} in place of {wanted.shape}"
    for broken in properties:
        if said := broken(answer):
            return said
    for trial in trials:
        found, wanted = result(answer, *trial.args), result(oracle, *trial.args)
        off = ~np.isclose(found, wanted, rtol=1e-4, atol=1e-5)
        if off.any():
            place = tuple(map(int, np.argwhere(off)[0]))
            which = f"the number at {list(place)}" if place else "the result"
            return f"on {trial.title} {which} is {found[place]:.4g} in place of {wanted[place]:.4g}"
    return None
