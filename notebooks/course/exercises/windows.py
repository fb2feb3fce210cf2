"""Exercises of notebook 02: how many windows, building them, and a loader that gives it away."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from course.checks import Trial, choose, compare_calls, exercise, whole_number_in
from jaxgpt import SlidingWindows


def oracle(ids: Any, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """All windows of the package, inputs and targets."""
    windows = SlidingWindows(np.asarray(ids), int(length), int(stride))
    return windows.window(np.arange(len(windows)))


def _stacked(function: Any) -> Any:
    return lambda *args: np.stack([np.asarray(part) for part in function(*args)])


TOKENS, LENGTH, STRIDE = 41, 8, 8


@exercise("02.1")
def count_windows(answer: Any) -> str | None:
    """How many windows of 8 with stride 8 there are in 41 tokens: 5."""
    right = len(SlidingWindows(np.arange(TOKENS), LENGTH, STRIDE))
    given, answer = answer, whole_number_in(answer)
    if answer is None:
        return f"a whole number is wanted, and this is {given!r}"
    if answer == right:
        return None
    if answer == TOKENS // LENGTH + 1:
        return "the last would have one token and nothing to predict: windows are whole"
    if answer == right - 1:
        return "one more fits: the last window's last target is the last token of all"
    if answer == TOKENS - LENGTH:
        return "that is the number for a stride of 1; here each begins 8 tokens further on"
    return "each window needs 8 tokens and one after the last; count where they may begin"


_ROW = np.arange(50, 91)
TRIALS = (
    Trial("a stride of the length", (_ROW, 8, 8)),
    Trial("a stride of 1", (_ROW, 4, 1)),
    Trial("half of the length", (_ROW, 8, 4)),
    Trial("a stride longer than the window", (_ROW, 3, 10)),
    Trial("tokens for one window alone", (_ROW[:5], 4, 4)),
    Trial("windows of one token", (_ROW[:6], 1, 1)),
    Trial("equal tokens", (np.zeros(9, np.int64), 2, 2)),
)


@exercise("02.2")
def build_windows(answer: Any) -> str | None:
    """A function that cuts all windows, inputs and targets."""
    if not callable(answer):
        return f"a function is wanted, and this is a {type(answer).__name__}"
    cut: Callable[..., Any] = answer
    for trial in TRIALS:
        try:
            found = cut(*trial.args)
        except Exception as error:  # the reader's own
            return f"on {trial.title} it raises {type(error).__name__}: {error}".splitlines()[0]
        if found is None:
            return f"on {trial.title} it returns nothing"
        parts = list(found) if isinstance(found, Iterable) else [found]
        if len(parts) != 2:
            return (
                f"on {trial.title} it gives {len(parts)} parts in place of two, inputs and targets"
            )
        try:
            inputs, targets = map(np.asarray, parts)
        except ValueError:
            return f"on {trial.title} its windows are of several lengths: those cut short are none"
        wanted = oracle(*trial.args)[0].shape
        if said := _shapes(trial, inputs, targets, wanted):
            return said
    return compare_calls(_stacked(answer), _stacked(oracle), TRIALS, (_plainly,))


def _plainly(stacked: Any) -> str | None:
    inputs, targets = stacked(_ROW, 8, 8)
    if np.array_equal(inputs, targets):
        return "inputs and targets are the same; a target is the token after"
    if np.array_equal(targets, inputs - 1):
        return "each target is the token before; it is the one after"
    return None


def _shapes(trial: Trial, inputs: Any, targets: Any, wanted: tuple[int, ...]) -> str | None:
    if inputs.shape != targets.shape:
        return f"on {trial.title} inputs are {inputs.shape} and targets {targets.shape}"
    if inputs.shape == wanted:
        return None
    if inputs.ndim == 2 and inputs.shape[1] == wanted[1]:
        more = "more" if inputs.shape[0] > wanted[0] else "fewer"
        return (
            f"on {trial.title} there are {inputs.shape[0]} windows, {more} than {wanted[0]}: mind "
            "the stride, and that the last target is a token that there is"
        )
    return f"on {trial.title} inputs have shape {inputs.shape} in place of {wanted}"


def leaky_batches(ids: Any, length: int, batch_size: int, steps: int) -> Iterator[Any]:
    """Batches of inputs and targets with one error, for the reader to find."""
    windows = SlidingWindows(np.asarray(ids), length)
    for step in range(steps):
        batch = windows.batch(step * batch_size, batch_size, seed=0)
        yield batch.targets, batch.targets


_NOT_SO = {
    "order": "a shuffled order is wanted: print a few first tokens, no window comes twice",
    "length": "each row has as many tokens as it should; look at what stands in them",
    "stride": "windows that overlap repeat tokens, but none of them tells its own targets",
}


@exercise("02.3")
def find_the_bug(answer: Any) -> str | None:
    """Why the loss falls to 0: the inputs are the targets."""
    return choose(answer, "targets", _NOT_SO)
