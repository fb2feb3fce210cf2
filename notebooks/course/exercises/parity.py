"""Exercises of notebook 11: where an epsilon shows, a first difference, three sealed models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from course.checks import exercise
from course.recorded import CONFIG, params, tokens
from course.sealed import KINDS, sealed, secret
from jaxgpt.parity.diagnosis.differences import Row, differences, distance
from jaxgpt.parity.recordings.recording import record_model
from jaxgpt.parity.trace import activation_names

SEALED = (22, 23, 24)
"""The seeds of the three models to diagnose."""

_NAMES = activation_names(CONFIG.num_layers)
_NOT_FIRST = {
    "embed": "what enters the first block is a sum of two tables: no norm has been there yet",
    "norm": "that is the last norm; each block has two, and the difference is there before",
    "logits": "the logits do differ, but they come last: which norm is the first on the way?",
    "blocks.0.norm2": "that is the second norm of block 0; what enters it differs already",
}


@exercise("11.1")
def where_an_epsilon_shows(answer: Any) -> str | None:
    """The first activation to differ under another epsilon: the first norm of the first block."""
    if not isinstance(answer, str):
        return f"a name is wanted, as a string, and this is a {type(answer).__name__}"
    name = answer.strip().lower()
    if name == "blocks.0.norm1":
        return None
    if name in _NOT_FIRST:
        return _NOT_FIRST[name]
    if name not in _NAMES:
        return f"{name!r} is none of the {len(_NAMES)} names; write it in full, as printed above"
    block = int(name.split(".")[1])
    if block:
        return f"block {block} is not the first that the numbers pass: blocks count from 0"
    return f"{name} comes after a norm of its block, so what it is made of differs already"


Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Case:
    """Two models' activations, and what a wrong answer on them has missed."""

    title: str
    a: Arrays
    b: Arrays
    hint: str
    bounds: Mapping[str, float] | float = 1e-5

    def limits(self) -> dict[str, float]:
        if isinstance(self.bounds, Mapping):
            return dict(self.bounds)
        return dict.fromkeys(self.a, self.bounds)


def _off(x: np.ndarray, by: float, count: int | None = None) -> np.ndarray:
    """`x` with its first `count` numbers `by` higher."""
    other = x.copy()
    other.flat[:count] += np.float32(by)
    return other


def _cases() -> list[_Case]:
    draw = np.random.default_rng(0)
    x, y, z = draw.standard_normal((3, 1, 6, 50)).astype(np.float32)
    wide = {"embed": x, "blocks.0.norm1": y, "logits": z}
    later = wide | {"blocks.0.norm1": _off(y, 1e-3), "logits": _off(z, 0.5)}
    near_zero = _off(x, 0)
    near_zero.flat[7] = 1e-9
    undefined = _off(y, 0)
    undefined.flat[3] = np.nan
    below = _off(x, 0)
    below.flat[7] = -40
    both = {"embed": _off(x, 0.1), "blocks.0.norm1": _off(y, 0.1), "logits": z}
    one = {"embed": np.ones((1, 1, 2), np.float32)}
    two = {"embed": 2 * one["embed"]}
    return [
        _Case("equal models", wide, wide, "nothing differs there: None"),
        *(
            _Case(
                f"a difference {way}",
                *({"up": x}, {"up": _off(x, by)}),
                "0.5 is too much, upwards as downwards: take it absolute",
            )
            for way, by in (("upwards", 0.5), ("downwards", -0.5))
        ),
        _Case(
            "models that differ from the second on",
            *(wide, later),
            "the first is wanted: not the last, and not the one that is furthest apart",
        ),
        _Case(
            "models that both begin to differ at embed",
            *(wide, both),
            "the order is that of the mapping, in which they are computed, not of the alphabet",
        ),
        _Case(
            "a number near 0 that is twice as large",
            *({"up": near_zero}, {"up": np.where(near_zero == 1e-9, 2e-9, near_zero)}),
            "the measure is the largest number of all, not each number itself",
        ),
        _Case(
            "numbers in the thousands, apart by rounding",
            *({"up": 5000 * x}, {"up": _off(5000 * x, 1e-3)}),
            "a difference counts as a share of the largest number; this is an absolute one",
        ),
        _Case(
            "numbers of a millionth, apart by a tenth of that",
            *({"up": 1e-6 * x, "down": y}, {"up": _off(1e-6 * x, 1e-7), "down": y}),
            "small as the difference is, it is a large share of the largest number there",
        ),
        _Case(
            "one number of 300 that differs",
            *({"up": x}, {"up": _off(x, 1e-4, 1)}),
            "one number is enough: take the largest difference, not the mean, of squares neither",
        ),
        _Case(
            "numbers of which the largest is -40",
            *({"up": below}, {"up": _off(below, 2e-4, 1)}),
            "a difference counts as a share of the largest number, which may be below 0; not of "
            "the mean",
        ),
        _Case(
            "a model with a number that is undefined (NaN)",
            *({"up": y}, {"up": undefined}),
            "no comparison with NaN is true; ask whether it is within the bound, and turn that",
        ),
        _Case(
            "activations that are 0 in both",
            *({"up": 0 * x, "down": y}, {"up": 0 * x, "down": _off(y, 1)}),
            "0 of 0 is no difference, and must not divide by 0",
        ),
        _Case(
            "two bounds",
            *({"up": x, "down": y}, {"up": _off(x, 1e-3), "down": _off(y, 1e-3)}),
            "each activation has a bound of its own, that of its name",
            {"up": 1e-2, "down": 1e-5},
        ),
        _Case("ones and twos", one, two, _EITHER, 0.6),
        _Case("twos and ones", two, one, _EITHER, 0.6),
        _Case("ones and twos under a smaller bound", one, two, _EITHER, 0.4),
    ]


_EITHER = "the measure is the largest number in either of the two, not in one of them, nor both"


def _oracle(a: Arrays, b: Arrays, bounds: Mapping[str, float]) -> str | None:
    rows = (Row("activation", name, *distance(a[name], b[name]), bounds[name]) for name in a)
    return next((row.name for row in rows if row.differs), None)


@exercise("11.2")
def build_first_difference(answer: Any) -> str | None:
    """The name of the first activation that differs, held against the package's measure."""
    if not callable(answer):
        return f"a function is wanted, and this is a {type(answer).__name__}"
    for case in _cases():
        wanted = _oracle(case.a, case.b, case.limits())
        try:
            with np.errstate(all="ignore"):
                copies = ({name: x.copy() for name, x in of.items()} for of in (case.a, case.b))
                found = answer(*copies, case.limits())
        except Exception as error:  # the reader's own
            said = f"on {case.title} it raises {type(error).__name__}: {error}"
            return said.splitlines()[0]
        if not (found is None or isinstance(found, str)):
            return f"on {case.title} it gives a {type(found).__name__}: a name or None is wanted"
        if found != wanted:
            return f"on {case.title} it gives {found!r} in place of {wanted!r}: {case.hint}"
    return None


_SHOWS_AT = {
    **{"mask": "attn.context", "scale": "attn.context", "epsilon": "norm1", "variance": "norm1"},
    **{"gelu": "mlp.gelu", "positions": "embed", "order": "attn.qkv", "nothing": "no activation"},
}
_TELL_APART = {
    "attn.context": "mask and scale both show there first; the first token sees itself alone, "
    "whatever the scale: does its row differ?",
    "norm1": "epsilon and variance both show there first; is the ratio of the two the same for "
    "every token?",
}


@exercise("11.3")
def name_the_bugs(answer: Any) -> str | None:
    """What each sealed model computes otherwise, in the words of `KINDS`."""
    if not isinstance(answer, list | tuple | np.ndarray):
        return f"a list of three words is wanted, and this is a {type(answer).__name__}"
    if len(answer) != len(SEALED):
        return f"{len(SEALED)} words are wanted, one for each model, and these are {len(answer)}"
    ours = record_model(CONFIG, params(), tokens())
    for seed, word in zip(SEALED, answer, strict=True):
        word = word.strip().lower() if isinstance(word, str) else word
        if word not in KINDS:
            return f"of model {seed}, one of these words is wanted: {', '.join(KINDS)}"
        if word == secret(seed):
            continue
        rows = differences(ours, sealed(seed))
        first = next((row.name for row in rows if row.differs), "nothing")
        if _SHOWS_AT[word] == _SHOWS_AT[secret(seed)]:
            return f"model {seed}: {_TELL_APART[_SHOWS_AT[word]]}"
        return (
            f"model {seed}: {word} would show first at {_SHOWS_AT[word]}, and here "
            f"{first} is the first that differs"
        )
    return None
