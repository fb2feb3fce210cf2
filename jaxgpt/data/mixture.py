"""Several sources of text with weights: which they are, and their tokens as one dataset."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from jaxgpt.data.mixed_windows import joined
from jaxgpt.data.tokens import TokenDataset, TokenSplit
from jaxgpt.errors import ConfigError
from jaxgpt.fields import check
from jaxgpt.files import sha256
from jaxgpt.tokenization.tokenizer import Tokenizer

FINEST = 100_000
"""Shares are whole numbers of this part, unless they are fractions of fewer."""


@dataclass(frozen=True)
class Mixture:
    """The datasets of several sources by their names, and how many of every so many rows each has.

    Its splits are those of the sources one behind the other. All tokens are of one tokenizer.
    """

    datasets: dict[str, TokenDataset]
    counts: tuple[int, ...]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the rows that each source has."""
        total = sum(self.counts)
        return {name: count / total for name, count in zip(self.datasets, self.counts, strict=True)}

    def passes(self, tokens: int) -> dict[str, float]:
        """How often each source has been gone through, when so many tokens were trained on."""
        return {
            name: tokens * self.shares[name] / dataset.split("train").num_tokens
            for name, dataset in self.datasets.items()
        }

    @property
    def tokenizer(self) -> Tokenizer:
        """The one that all tokens are from."""
        return self._first.tokenizer

    @property
    def manifest(self) -> dict[str, Any]:
        """What the manifests of the sources agree on: the tokenizer."""
        return {"tokenizer": self._first.manifest["tokenizer"]}

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 sum (hex) that mixtures share if they have the same tokens and shares."""
        sums = [dataset.fingerprint for dataset in self.datasets.values()]
        return sha256(json.dumps(list(zip(sums, self.counts, strict=True))).encode())

    def split(self, name: str) -> TokenSplit:
        """The splits of this name, joined; DataError if one of the sources has none."""
        return joined([dataset.split(name) for dataset in self.datasets.values()])

    @property
    def _first(self) -> TokenDataset:
        return next(iter(self.datasets.values()))


Dataset = TokenDataset | Mixture
"""What a run is trained on."""


def read_weights(data: Sequence[str]) -> dict[str, float]:
    """The weights in what is named as data, such as `a=0.7 b=0.3`; empty where none has one.

    A name that is there as a whole, or does not end in `=` and a number, has no weight. Raises
    ConfigError if only some have a weight, a weight is not above 0, or a name stands twice.
    """
    pairs = [_weight(name) for name in data]
    if all(weight is None for _, weight in pairs):
        return {}
    bare = next((name for name, weight in pairs if weight is None), None)
    if bare is not None:
        other = next(given for given, pair in zip(data, pairs, strict=True) if pair[1] is not None)
        raise ConfigError(
            f"data has {bare} without a weight beside {other}; write a weight behind each, such as "
            f"{bare}=1, or behind none"
        )
    weights = {name: weight for name, weight in pairs if weight is not None}
    for name, weight in weights.items():
        check(bool(name), f"data has the weight {weight:g} of nothing; write NAME={weight:g}")
        check(
            0 < weight < math.inf,
            f"data gives {name} the weight {weight:g}; it must be above 0 (weights need not add to "
            "1)",
        )
    check(len(weights) == len(data), "data names a source twice; give each once, with its weight")
    return weights


def names_of(data: Sequence[str]) -> tuple[str, ...]:
    """What is named as data, without weights."""
    return tuple(read_weights(data)) or tuple(data)


def same_sources(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two runs' data are the same but for weights, so that their tokens are the same."""
    mixed = [len(read_weights(data)) > 1 for data in (one, other)]
    return names_of(one) == names_of(other) and mixed[0] == mixed[1]


def counts_of(weights: dict[str, float]) -> tuple[int, ...]:
    """How many of every so many rows each source has: the smallest whole numbers in these shares.

    Where that would take more than `FINEST` rows, shares are rounded to its parts, in sum 1. Raises
    ConfigError for a share of less than one part.
    """
    exact = [Fraction(repr(weight)) for weight in weights.values()]
    total = sum(exact)
    shares = [weight / total for weight in exact]
    period = math.lcm(*(share.denominator for share in shares))
    if period > FINEST:
        period = FINEST
        counts = [math.floor(share * period) for share in shares]
        left = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i] * period)
        for source in left[: period - sum(counts)]:
            counts[source] += 1
    else:
        counts = [int(share * period) for share in shares]
    for name, count in zip(weights, counts, strict=True):
        check(
            count > 0,
            f"data gives {name} a share of less than 1/{FINEST:,} of the rows; raise its weight, "
            "or leave it out",
        )
    return tuple(count // math.gcd(*counts) for count in counts)


def _weight(given: str) -> tuple[str, float | None]:
    name, equals, number = given.rpartition("=")
    if not equals or os.path.lexists(given):  # a file may be called so
        return given, None
    try:
        return name, float(number)
    except ValueError:
        return given, None
