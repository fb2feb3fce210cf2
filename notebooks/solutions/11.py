"""Answers to the exercises of notebook 11: the right ones, and wrong ones with their hints."""

import numpy as np


def solution(a, b, bounds):
    """The first name whose largest difference is too large a share of the largest number."""
    for name in a:
        apart = np.abs(a[name] - b[name]).max()
        largest = max(np.abs(a[name]).max(), np.abs(b[name]).max())
        if not apart <= bounds[name] * largest:
            return name
    return None


def _apart(a, b):
    return np.abs(a - b).max()


def _largest(a, b):
    return max(np.abs(a).max(), np.abs(b).max())


def _wrong(differs=None, order=list, pick=0):
    """A first difference by `differs(a, b, bound)`, of names in `order` the `pick`th."""
    differs = differs or (lambda a, b, bound: not _apart(a, b) <= bound * _largest(a, b))

    def first_difference(a, b, bounds):
        found = [name for name in order(a) if differs(a[name], b[name], bounds[name])]
        return found[pick] if found else None

    return first_difference


def _furthest(a, b, bounds):
    found = [
        name for name in a if _apart(a[name], b[name]) > bounds[name] * _largest(a[name], b[name])
    ]
    return max(found, key=lambda name: _apart(a[name], b[name]), default=None)


def _divides(a, b, bounds):
    for name in a:
        if not _apart(a[name], b[name]) / _largest(a[name], b[name]) <= bounds[name]:
            return name
    return None


def _of_all(a, b, bounds):
    largest = max(_largest(a[name], b[name]) for name in a)
    return next((name for name in a if _apart(a[name], b[name]) > bounds[name] * largest), None)


RIGHT = {"11.1": "blocks.0.norm1", "11.2": solution, "11.3": ["order", "mask", "variance"]}

WRONG = {
    "11.1": [
        ("embed", "no norm has been there yet"),
        ("norm", "the last norm"),
        ("logits", "they come last"),
        ("blocks.0.norm2", "the second norm of block 0"),
        ("blocks.0.attn.qkv", "comes after a norm"),
        ("blocks.1.norm1", "blocks count from 0"),
        ("norm1", "write it in full"),
        (1, "a name is wanted"),
    ],
    "11.2": [
        (_wrong(pick=-1), "not the last"),
        (_furthest, "not the one that is furthest apart"),
        (_wrong(order=sorted), "not of the alphabet"),
        (_wrong(lambda a, b, bound: _apart(a, b) > bound), "this is an absolute one"),
        (
            _wrong(lambda a, b, bound: _apart(a, b) > bound * max(1, _largest(a, b))),
            "a large share of the largest number",
        ),
        (
            _wrong(lambda a, b, bound: (np.abs(a - b) > bound * np.abs(a)).any()),
            "not each number itself",
        ),
        (
            _wrong(lambda a, b, bound: np.abs(a - b).mean() > bound * _largest(a, b)),
            "not the mean",
        ),
        (
            _wrong(lambda a, b, bound: np.linalg.norm(a - b) > bound * np.linalg.norm(b)),
            "of squares neither",
        ),
        (_wrong(lambda a, b, bound: _apart(a, b) > bound * max(a.max(), b.max())), "below 0"),
        (_wrong(lambda a, b, bound: _apart(a, b) > bound * np.abs(b).mean()), "not of the mean"),
        (
            _wrong(
                lambda a, b, bound: not _apart(a, b) <= bound * (np.abs(a).max() + np.abs(b).max())
            ),
            "nor both",
        ),
        (lambda a, b, bounds: None, "0.5 is too much"),
        (_of_all, "number there"),
        (_wrong(lambda a, b, bound: (a - b).max() > bound * _largest(a, b)), "take it absolute"),
        (_wrong(lambda a, b, bound: (b - a).max() > bound * _largest(a, b)), "take it absolute"),
        (
            _wrong(lambda a, b, bound: _apart(a, b) > bound * _largest(a, b)),
            "no comparison with NaN is true",
        ),
        (_divides, "must not divide by 0"),
        (
            _wrong(lambda a, b, bound: not _apart(a, b) <= 1e-5 * _largest(a, b)),
            "a bound of its own",
        ),
        (
            _wrong(lambda a, b, bound: not _apart(a, b) <= bound * np.abs(a).max()),
            "in either of the two",
        ),
        (
            _wrong(lambda a, b, bound: not _apart(a, b) <= bound * np.abs(b).max()),
            "in either of the two",
        ),
        (lambda a, b, bounds: list(a).index("embed"), "a name or None is wanted"),
        (lambda a, b: None, "raises TypeError"),
        ("embed", "a function is wanted"),
    ],
    "11.3": [
        (["nothing", "mask", "variance"], "model 22: nothing would show first at no activation"),
        (["positions", "mask", "variance"], "positions would show first at embed"),
        (["order", "scale", "variance"], "the first token sees itself alone"),
        (["order", "mask", "epsilon"], "the same for every token"),
        (["order", "gelu", "variance"], "gelu would show first at mlp.gelu"),
        (["order", "mask"], "one for each model"),
        (["order", "mask", "bug"], "one of these words is wanted"),
        ("order mask variance", "a list of three words"),
    ],
}
