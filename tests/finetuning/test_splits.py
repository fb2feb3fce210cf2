"""A split has the shares asked for, and no text on two sides."""

from itertools import chain

import pytest

from jaxgpt.errors import ConfigError, DataError
from jaxgpt.finetuning.splits import split

TEXTS = [f"text {i}" for i in range(100)]


def test_shares_and_order():
    parts = split(TEXTS, str, seed=0)
    assert [len(part) for part in parts] == [70, 10, 20]
    assert sorted(chain(*parts)) == sorted(TEXTS)
    assert all(part == sorted(part, key=TEXTS.index) for part in parts)


def test_the_seed_decides_and_the_order_of_items_does_not():
    parts = split(TEXTS, str, seed=0)
    assert [sorted(part) for part in split(TEXTS[::-1], str, seed=0)] == list(map(sorted, parts))
    assert split(TEXTS, str, seed=1) != parts


def test_copies_stay_together():
    items = [(i, text) for i, text in enumerate(TEXTS * 3)]
    parts = split(items, lambda item: item[1], seed=3, fractions=(0.5, 0.5))
    texts = [{text for _, text in part} for part in parts]
    assert not texts[0] & texts[1]
    assert [len(part) for part in parts] == [150, 150]


@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_part_has_one(count):
    assert all(split(TEXTS[:count], str, seed=0))
    assert all(split(TEXTS[:count], str, seed=0, fractions=(0.01, 0.01, 0.98)))
    assert all(split(TEXTS[:count], str, seed=0, fractions=(0.98, 0.01, 0.01)))


def test_what_cannot_be_split():
    with pytest.raises(DataError, match="2 distinct texts cannot be cut into 3 parts"):
        split(["a", "b", "b", "a"], str, seed=0)
    with pytest.raises(ConfigError, match=r"fractions \(0.5, 0.6\) must be above 0 and sum to 1"):
        split(TEXTS, str, seed=0, fractions=(0.5, 0.6))
    with pytest.raises(ConfigError, match="above 0"):
        split(TEXTS, str, seed=0, fractions=(0.0, 1.0))
