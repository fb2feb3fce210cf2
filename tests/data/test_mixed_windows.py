from fractions import Fraction

import numpy as np
import pytest

from jaxgpt.data.batches import SlidingWindows
from jaxgpt.data.mixed_windows import MixedWindows, interleave
from jaxgpt.errors import ConfigError, DataError


def mixture(counts=(7, 2, 1), sizes=(101, 41, 31), stride=5):
    """Sources of numbers that count up, from 0, 1000, 2000, ..."""
    parts = {
        chr(97 + number): SlidingWindows(1000 * number + np.arange(size), 10, stride)
        for number, size in enumerate(sizes)
    }
    return MixedWindows(parts, counts)


@pytest.mark.parametrize(
    "counts",
    [(1,), (1, 1), (7, 2, 1), (1, 1, 1, 1, 1, 1, 1), (997, 1, 1, 1), (50, 33, 31, 17, 2), (1, 300)],
)
def test_every_source_is_within_one_of_its_share_at_all_times(counts):
    order, period = interleave(counts), sum(counts)
    assert order.size == period
    rows = np.arange(1, period + 1)
    for source, count in enumerate(counts):
        off = np.cumsum(order == source) - rows * count / period
        assert np.abs(off).max() < 1
        assert np.sum(order == source) == count


def test_the_order_never_changes():
    assert interleave((7, 2, 1)).tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 0, 2]
    assert mixture().indices(3, 12, seed=5).tolist() == [
        23, 16, 5, 19, 15, 7, 29, 14, 11, 1, 24, 2
    ]  # fmt: skip


def test_a_row_is_of_its_number_alone():
    windows = mixture()
    whole = windows.batch(0, 27, seed=1)
    again = mixture().batch(7, 20, seed=1)
    np.testing.assert_array_equal(whole.inputs[7:27], again.inputs)
    np.testing.assert_array_equal(whole.targets[7:27], whole.inputs[7:27] + 1)
    far = windows.batch(10**15 + 3, 8, seed=1)
    np.testing.assert_array_equal(windows.batch(10**15 + 5, 4, seed=1).inputs, far.inputs[2:6])


def test_each_source_goes_through_epochs_of_its_own():
    windows = mixture()
    rows = [windows.batch(10 * turn, 10, seed=1).inputs[:, 0] for turn in range(19)]
    found = np.concatenate(rows)
    for number, (part, count) in enumerate(zip(windows.parts, (7, 2, 1), strict=True)):
        own = found[found // 1000 == number] - 1000 * number
        assert own.size == 19 * count
        for epoch in range(own.size // len(part)):
            once = np.sort(own[epoch * len(part) : (epoch + 1) * len(part)])
            np.testing.assert_array_equal(once, 5 * np.arange(len(part)))


def test_sources_of_one_size_are_not_in_step():
    windows = mixture((1, 1), (101, 101))
    first = windows.batch(0, 20, seed=1).inputs[:, 0] % 1000
    assert first[::2].tolist() != first[1::2].tolist()


def test_windows_are_numbered_through_and_none_crosses_a_border():
    windows = mixture()
    batch = windows.window(np.arange(len(windows)))
    assert len(windows) == 19 + 7 + 5
    np.testing.assert_array_equal(np.diff(batch.inputs), 1)
    targets = [batch.targets[batch.targets >= 0] for batch in windows.in_order(4)]
    assert np.sort(np.concatenate(targets)).tolist() == [
        *range(1, 101), *range(1001, 1041), *range(2001, 2031)
    ]  # fmt: skip


def test_a_source_too_small_for_a_batch_is_named():
    mixture().check_batch_size(27)
    with pytest.raises(DataError, match="a has 19 windows of 10 tokens, too few for the 36 of it"):
        mixture().indices(0, 51, seed=0)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, not 0"):
        mixture().check_batch_size(0)


def test_a_long_order_takes_each_row_by_itself():
    counts = (70_001, 20_000, 9_999)
    windows = mixture(counts)
    assert Fraction(int(np.sum(interleave(counts) == 0)), 100_000) == Fraction(70_001, 100_000)
    windows.indices(2**55, 10, seed=0)
