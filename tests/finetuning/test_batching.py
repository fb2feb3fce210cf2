"""Padding and order: few widths, every row once an epoch, each batch a function of (seed, step)."""

import numpy as np
import pytest

from jaxgpt.data.batches import shuffled
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.finetuning.batching import Rows, bucket_widths, pad


def test_widths_are_few_and_near():
    assert bucket_widths(100) == [16, 24, 32, 48, 64, 96, 100]
    assert bucket_widths(64) == [16, 24, 32, 48, 64]
    assert bucket_widths(5) == [5]
    assert len(bucket_widths(1024)) == 13
    widths = bucket_widths(1024)
    for length in range(16, 1025):
        width = next(width for width in widths if width >= length)
        assert width <= 1.5 * length


def test_pad():
    rows = [np.array([1, 2, 3]), np.array([4])]
    assert pad(rows, 9).tolist() == [[1, 2, 3], [4, 9, 9]]
    assert pad(rows, -100, [2, 4, 8]).tolist() == [[1, 2, 3, -100], [4, -100, -100, -100]]


def test_an_epoch_has_every_row_once():
    steps = [shuffled(10, 4 * step, 4, seed=1) for step in range(5)]
    drawn = np.concatenate(steps)
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()
    assert (
        drawn.tolist()
        != np.concatenate([shuffled(10, 4 * s, 4, seed=2) for s in range(5)]).tolist()
    )


def test_a_batch_depends_on_seed_and_step_alone():
    rows = Rows(list("abcdefg"), "".join, "-")
    want = [rows.batch(3 * step, 3, seed=0) for step in range(9)]
    again = Rows(list("abcdefg"), "".join, "-")
    assert [again.batch(3 * step, 3, seed=0) for step in reversed(range(9))] == want[::-1]
    # A batch of the same places, however they are cut.
    assert "".join(want) == "".join(rows.batch(9 * step, 9, seed=0) for step in range(3))


def test_in_order_fills_up_the_last_batch():
    rows = Rows(list("abcde"), "".join, "-")
    assert list(rows.in_order(2)) == ["ab", "cd", "e-"]
    assert list(rows.in_order(8)) == ["abcde---"]


def test_what_cannot_be_a_batch():
    with pytest.raises(DataError, match="no record"):
        Rows([], "".join, "-")
    with pytest.raises(ConfigError, match="batch_size must be at least 1, not 0"):
        Rows(["a"], "".join, "-").batch(0, 0, seed=0)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, not -1"):
        next(Rows(["a"], "".join, "-").in_order(-1))
