"""Answers to the exercises of notebook 06: the right ones, and wrong ones with their hints."""

import jax.numpy as jnp

B1, B2, EPSILON = 0.9, 0.95, 1e-8


def solution(weight, slope, mean, square, n, rate, decay):
    """One update by AdamW: the new weight, and the means as they are kept."""
    mean = B1 * mean + (1 - B1) * slope
    square = B2 * square + (1 - B2) * slope**2
    corrected, corrected_square = mean / (1 - B1**n), square / (1 - B2**n)
    change = corrected / (jnp.sqrt(corrected_square) + EPSILON) + decay * weight
    return weight - rate * change, mean, square


def _wrong(
    betas=(B1, B2),
    power=2,
    correct=lambda mean, b, n: mean / (1 - b**n),
    correct_square=None,
    root=lambda square: jnp.sqrt(square) + EPSILON,
    decayed=lambda weight, change, rate, decay: weight - rate * (change + decay * weight),
    through=0.0,
    keep=lambda weight, mean, square, n: (weight, mean, square),
    added=(1 - B1, 1 - B2),
):
    def adamw(weight, slope, mean, square, n, rate, decay):
        slope = slope + through * decay * weight
        mean = betas[0] * mean + added[0] * slope
        square = betas[1] * square + added[1] * slope**power
        top = correct(mean, betas[0], n)
        change = top / root((correct_square or correct)(square, betas[1], n))
        return keep(decayed(weight, change, rate, decay), mean, square, n)

    return adamw


def _plain(weight, change, rate, decay):
    return weight - rate * change


def _as_it_is(mean, b, n):
    return mean


RIGHT = {"06.1": 1.5, "06.2": solution, "06.3": "counts"}

WRONG = {
    "06.1": [
        (0, "can be foretold"),
        (1.585, "equally likely"),
        (1.04, "in nats"),
        (1.0986, "in nats, of one"),
        (2, "alone"),
        (1, "half of the balls"),
        (2.83, "perplexity"),
        (0.5, "a probability"),
        (-1.5, "minus that"),
        (1.67, "weigh the loss"),
        (7, "share times log2"),
        ("a lot", "a number is wanted"),
    ],
    "06.2": [
        (_wrong(root=lambda s: jnp.sqrt(s + EPSILON)), "outside the root"),
        (_wrong(root=jnp.sqrt), "epsilon goes below"),
        (_wrong(correct=_as_it_is), "no bias correction"),
        (_wrong(correct_square=_as_it_is), "correction of the mean of squares"),
        (_wrong(correct=_as_it_is, correct_square=lambda s, b, n: s / (1 - b**n)), "of slopes"),
        (_wrong(correct=lambda m, b, n: m / (1 - b)), "the first step's"),
        (_wrong(correct=lambda m, b, n: m / (1 - b ** (n - 1))), "counts from 1"),
        (_wrong(through=1.0, decayed=_plain), "through the gradient"),
        (_wrong(decayed=_plain), "no decay"),
        (_wrong(decayed=lambda w, c, r, d: w - r * c - d * w), "not times the learning rate"),
        (_wrong(decayed=lambda w, c, r, d: w + r * (c - d * w)), "up the slope"),
        (_wrong(decayed=lambda w, c, r, d: w - c - r * d * w), "no rate"),
        (_wrong(decayed=lambda w, c, r, d: (w - r * c) * (1 - r * d)), "after its move"),
        (_wrong(decayed=lambda w, c, r, d: -r * (c + d * w)), "the change alone"),
        (_wrong(betas=(B2, B1), added=(1 - B2, 1 - B1)), "is by b2"),
        (_wrong(added=(1.0, 1 - B2)), "adds the slope whole"),
        (_wrong(power=1), "not its square"),
        (_wrong(root=lambda s: s + EPSILON), "take its root"),
        (_wrong(keep=lambda w, m, s, n: (w, m / (1 - B1**n), s / (1 - B2**n))), "keep it without"),
        (_wrong(keep=lambda w, m, s, n: (w, s, m)), "are exchanged"),
        (_wrong(keep=lambda w, m, s, n: w), "has shape"),
        (lambda w, g, m, s, n, rate, decay: (w - rate * g - rate * decay * w, m, s), "is the old"),
        (lambda weight, slope: weight - slope, "raises"),
        (None, "a function is wanted"),
    ],
    "06.3": [
        ("targets", "ragged batch in 1"),
        ("rows", "without a micro-batch"),
        ("sum", "four times as large"),
        ("shift", "every line"),
        ("accumulation", "one of these words"),
        (["counts"], "one of these words"),
    ],
}
