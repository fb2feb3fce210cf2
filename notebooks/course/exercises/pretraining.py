"""Exercises of notebook 06: the least loss, an update by AdamW, pieces of unequal length."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from course.checks import Trial, choose, compare_calls, exercise, number_in, result
from jaxgpt import OptimizerConfig, make_optimizer
from jaxgpt.data.batches import IGNORE
from jaxgpt.data.grammar import Grammar, one_of

Answer = Callable[..., Any]

_URN = {"red": 2, "blue": 1, "green": 1}
_BETA1, _BETA2, _EPSILON = 0.9, 0.95, 1e-8


@exercise("06.1")
def least_loss(answer: Any) -> str | None:
    """The mean loss in bits after endless training: the entropy of the urn."""
    number = number_in(answer)
    if number is None:
        return f"a number is wanted, and this is a {type(answer).__name__}"
    entropy = Grammar({"color": one_of(dict(_URN))}).entropy()
    if np.isclose(number, entropy, atol=5e-3):
        return None
    known = {
        0.0: "a loss of 0 would mean that every ball can be foretold; it is drawn at random",
        np.log2(3): "that is the loss of one who holds the three colors for equally likely",
        np.log(3): "that is the loss, in nats, of one who holds the colors for equally likely",
        2.0: "that is the loss of a blue or a green ball alone; red ones cost less",
        1.0: "that is the loss of a red ball alone; half of the balls are not red",
        entropy * np.log(2): "that is right in nats; divide by ln 2 for bits",
        2**entropy: "that is the perplexity, 2 to the power of the bits",
        -entropy: "the logarithm of a share is negative: the loss is minus that",
        5 / 3: "the colors do not count alike: weigh the loss of each by its share of the balls",
        0.5: "that is the share of red, a probability; take minus the logarithm of each",
    }
    for value, said in known.items():
        if np.isclose(number, value, atol=5e-3):
            return said
    if number < 0:
        return "no loss is negative: probabilities are at most 1"
    return "add up, over the colors, share times log2 of 1 / share"


def oracle(weight: Any, slope: Any, mean: Any, square: Any, n: Any, rate: Any, decay: Any) -> Any:
    """The package's AdamW in the midst of a run: new weight, mean and square."""
    settings = OptimizerConfig(
        learning_rate=float(rate),
        schedule="constant",
        warmup_steps=0,
        beta1=_BETA1,
        beta2=_BETA2,
        epsilon=_EPSILON,
        weight_decay=float(decay),
        weight_decay_on="all",
        gradient_clip="none",
    )
    optimizer = make_optimizer(settings, steps=1_000_000)
    state: Any = optimizer.init(weight)
    before = list(state)
    (place,) = (i for i, part in enumerate(before) if hasattr(part, "nu"))
    before[place] = before[place]._replace(count=jnp.int32(n) - 1, mu=mean, nu=square)
    change, after = optimizer.update(slope, tuple(before), weight)
    moments: Any = after
    return jnp.stack([weight + change, moments[place].mu, moments[place].nu])


def _arrays(*shape: int, size: float = 1.0, n: int, rate: float, decay: float, seed: int) -> Any:
    draw = np.random.default_rng(seed)
    weight, slope, mean = draw.standard_normal((3, *shape)).astype(np.float32)
    square = (draw.random(shape) + 0.2).astype(np.float32)
    if n == 1:
        mean, square = np.zeros_like(mean), np.zeros_like(square)
    scaled = (np.float32(size) * slope, np.float32(size) * mean, np.float32(size**2) * square)
    return weight, *scaled, np.int32(n), np.float32(rate), np.float32(decay)


def _at_rest(decay: float) -> Any:
    weight = np.array([2.0, -1.0, 0.0], np.float32)
    zeros = np.zeros(3, np.float32)
    return weight, zeros, zeros, zeros, np.int32(1), np.float32(0.1), np.float32(decay)


TRIALS = (
    Trial("the first step", _arrays(5, n=1, rate=0.1, decay=0.0, seed=0)),
    Trial("step 7, with decay", _arrays(5, n=7, rate=0.1, decay=0.5, seed=1)),
    Trial("slopes of a hundred-millionth", _arrays(4, size=1e-8, n=1, rate=0.1, decay=0.0, seed=2)),
    Trial("slopes in the thousands", _arrays(4, size=1e3, n=3, rate=0.1, decay=0.1, seed=3)),
    Trial("a matrix at step 500", _arrays(3, 4, n=500, rate=0.01, decay=0.1, seed=4)),
    Trial("one weight", _arrays(1, n=2, rate=0.1, decay=0.1, seed=5)),
    Trial("slopes of 0", _at_rest(0.0)),
    Trial("slopes of 0, with decay", _at_rest(0.5)),
)


def _stays_finite(answer: Answer) -> str | None:
    for trial in TRIALS:
        if not np.isfinite(result(answer, *trial.args)).all():
            zero = trial.args[1].any()
            why = "n counts from 1, so that 1 - b ** n is above 0" if zero else "epsilon goes below"
            return f"on {trial.title} a number is not finite: {why}"
    return None


def _keeps_means(answer: Answer) -> str | None:
    """The hints for the running means, which are the second and third of what is given."""
    _, slope, mean, square, n, *_ = args = _arrays(5, n=7, rate=0.1, decay=0.0, seed=1)
    _, kept, kept_square = result(answer, *args)
    _, right, right_square = result(oracle, *args)
    if not np.allclose(kept, right, atol=1e-5):
        if np.allclose(kept, right_square, atol=1e-5):
            return "mean and square are exchanged: give weight, mean, square, in this order"
        for value, said in (
            (right / (1 - _BETA1**n), "is kept with its bias correction: keep it without"),
            (_BETA1 * slope + (1 - _BETA1) * mean, "keeps 0.1 of the old; b1 is the old one's"),
            (_BETA2 * mean + (1 - _BETA2) * slope, "is by b2; the slope's mean is by b1"),
            (_BETA1 * mean + slope, "adds the slope whole: 1 - b1 of it"),
            (slope, "is this step's slope alone: it keeps b1 of the old mean"),
            (mean, "is the old one: the new slope is to be in it"),
        ):
            if np.allclose(kept, value, atol=1e-5):
                return f"the mean of slopes {said}"
        return "the mean of slopes is not b1 of the old one and 1 - b1 of the new slope"
    if not np.allclose(kept_square, right_square, atol=1e-5):
        for value, said in (
            (right_square / (1 - _BETA2**n), "is kept with its bias correction: keep it without"),
            (_BETA1 * square + (1 - _BETA1) * slope**2, "is by b1; it is by b2"),
            (_BETA2 * square + (1 - _BETA2) * slope, "has the slope itself, not its square"),
            (_BETA2 * square + (1 - _BETA2) * right**2, "has the square of the mean: the slope's"),
            (_BETA2 * square + slope**2, "adds the square whole: 1 - b2 of it"),
            (slope**2, "is this step's square alone: it keeps b2 of the old mean"),
            (square, "is the old one: the new square is to be in it"),
        ):
            if np.allclose(kept_square, value, atol=1e-5):
                return f"the mean of squares {said}"
        return "the mean of squares is not b2 of the old one and 1 - b2 of the slope's square"
    return None


def _moves_right(answer: Answer) -> str | None:
    """The hints for the weight: after a first step, whose move is known, and after a later one."""
    weight, slope, *rest = _arrays(5, n=1, rate=0.1, decay=0.0, seed=0)
    move = (result(answer, weight, slope, *rest)[0] - weight) / (-0.1 * np.sign(slope))
    first = float(move[0])
    if np.allclose(move, 0, atol=1e-4):
        return (
            "a first step does not move the weight: take rate times the quotient of the new means"
        )
    if np.allclose(move, -1, atol=1e-3):
        return "the weight goes up the slope: take the change away from it"
    if not np.allclose(move, 1, atol=1e-3):
        for value, said in (
            ((1 - _BETA1) / (1 - _BETA2) ** 0.5, "no bias correction"),
            (1 / (1 - _BETA2) ** 0.5, "no bias correction of the mean of squares"),
            (1 - _BETA1, "no bias correction of the mean of slopes"),
            (10.0, "no rate"),
        ):
            if np.isclose(first, value, atol=2e-3) and np.ptp(move) < 1e-2:
                return f"a first step moves by {value:.3f} times the rate, not by 1: {said}"
        if np.allclose(move * np.sign(slope), 1 / slope, rtol=1e-2):
            return "it divides by the mean of squares: take its root first"
        if np.allclose(move, np.abs(slope), rtol=1e-2):
            return "it moves by rate times slope: divide by the root of the mean of squares"
        return (
            f"a first step without decay moves each weight by the rate, and this one by "
            f"{first:.3f} times it: divide the corrected mean by the root of the corrected square"
        )
    return None


def _is_careful_with_epsilon(answer: Answer) -> str | None:
    args = _arrays(4, size=1e-8, n=1, rate=0.1, decay=0.0, seed=2)
    moved, right = (result(function, *args)[0] - args[0] for function in (answer, oracle))
    if np.allclose(moved, right, rtol=1e-2):
        return None
    slope = np.abs(args[1])
    inside = 0.1 * slope / np.sqrt(slope**2 + _EPSILON)
    if np.allclose(np.abs(moved), inside, rtol=0.05, atol=1e-6):
        return "on tiny slopes the weight hardly moves: epsilon is added outside the root"
    if np.allclose(np.abs(moved), 0.1, rtol=0.05):
        return "on tiny slopes it moves as if there were no epsilon: add it to the root"
    return "on tiny slopes it moves otherwise: epsilon is added to the root of the corrected square"


def _decays(answer: Answer) -> str | None:
    weight, *rest = _at_rest(0.5)
    found = result(answer, weight, *rest)[0]
    lost = weight - found
    if np.allclose(lost, 0.1 * 0.5 * weight, atol=1e-5):
        return None
    for value, said in (
        (0 * weight, "no decay: the weight shrinks also where its slope is 0"),
        (0.5 * weight, "the decay is not times the learning rate"),
        (0.1 * np.sign(weight), "the decay goes through the gradient, and is divided with it"),
        (-0.1 * 0.5 * weight, "the decay makes the weight grow"),
        (0.1 * 0.5 * np.sign(weight), "the decay is alike for all: it is a share of the weight"),
    ):
        if np.allclose(lost, value, atol=1e-3):
            return f"where slopes are 0, {said}"
    if np.allclose(np.abs(found), 0.1 * 0.5 * np.abs(weight), atol=1e-5) or not found.any():
        return "the first of the three is the change alone: give the new weight"
    return "where slopes are 0, a weight shrinks by rate times decay times itself"


def _decays_first(answer: Answer) -> str | None:
    args = _arrays(5, n=7, rate=0.1, decay=0.5, seed=1)
    undecayed = result(oracle, *args[:6], np.float32(0))[0]
    if np.allclose(result(answer, *args)[0], undecayed * (1 - 0.1 * 0.5), atol=1e-5):
        return "the weight shrinks after its move: decay is a share of the weight as it was"
    return None


def _counts_steps(answer: Answer) -> str | None:
    args = _arrays(5, n=7, rate=0.1, decay=0.0, seed=1)
    moved = result(answer, *args)[0]
    for n, said in ((1, "the first step's"), (6, "that of n - 1"), (8, "that of n + 1")):
        fixed = result(oracle, *args[:4], np.int32(n), *args[5:])[0]
        if np.allclose(moved, fixed, atol=1e-4):
            return f"at step 7 its bias correction is {said}: it is 1 - b ** n"
    if np.allclose(moved, _uncorrected(*args), atol=1e-4):
        return "at step 7 it has no bias correction"
    return None


def _uncorrected(weight: Any, slope: Any, mean: Any, square: Any, n: Any, rate: Any, _: Any) -> Any:
    mean, square = (
        _BETA1 * mean + (1 - _BETA1) * slope,
        _BETA2 * square + (1 - _BETA2) * slope**2,
    )
    return weight - rate * mean / (np.sqrt(square) + _EPSILON)


@exercise("06.2")
def build_adamw(answer: Any) -> str | None:
    """One update by AdamW, held against the package's."""
    properties = (
        _keeps_means,
        _stays_finite,
        _decays,
        _moves_right,
        _is_careful_with_epsilon,
        _counts_steps,
        _decays_first,
    )
    return compare_calls(answer, oracle, TRIALS, properties)


@partial(jax.jit, static_argnums=(0, 3))
def suspect(loss_fn: Any, params: Any, batch: Any, micro_batches: int) -> Any:
    """The gradient of a batch in micro-batches, with one error, to be found."""

    def mean_loss(params: Any, piece: Any) -> Any:
        nats, count = loss_fn(params, piece, None)
        return nats / jnp.maximum(count, 1)

    pieces = [jnp.stack(jnp.split(rows, micro_batches)) for rows in batch]
    grads = jax.lax.map(partial(jax.grad(mean_loss), params), pieces)
    return jax.tree.map(lambda leaf: leaf.mean(axis=0), grads)


_NOT_SO = {
    "targets": f"were targets of {IGNORE} counted, the ragged batch in 1 would be apart too",
    "rows": "without a micro-batch, the full batch in 4 would be apart too",
    "sum": "were the sum not divided, the full batch in 4 would be apart, four times as large",
    "shift": "with targets a place off, every line would be apart, the full batch in 1 as well",
}


@exercise("06.3")
def find_the_bug(answer: Any) -> str | None:
    """Which error `suspect` has: each piece is divided by its own number of targets."""
    return choose(answer, "counts", _NOT_SO)
