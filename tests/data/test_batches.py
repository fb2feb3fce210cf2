from collections import Counter

import jaxtyping
import numpy as np
import pytest

from jaxgpt.data.batches import IGNORE, Batch, SlidingWindows, permute
from jaxgpt.data.prepare import write_tokens
from jaxgpt.data.text import Document
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.tokenization.tokenizer import ByteTokenizer


def starts(batch):
    """Where each window begins, in tokens that count up from 0."""
    return batch.inputs[:, 0].tolist()


@pytest.mark.parametrize("size", range(1, 201))
def test_the_permutation_is_one_for_every_size(size):
    for epoch in range(3):
        permuted = permute(np.arange(size), size, seed=7, epoch=epoch)
        assert np.array_equal(np.sort(permuted), np.arange(size))


def plain_permute(index, size, *, seed, epoch):
    """The same permutation in Python's unbounded integers."""
    word = (1 << 64) - 1

    def mix(value):
        value = (value + 0x9E3779B97F4A7C15) & word
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & word
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & word
        return value ^ value >> 31

    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of splitmix64 seeded with 0
    side = next(side for side in range(size + 1) if side * side >= size)
    while True:
        left, right = divmod(index, side)
        for turn in range(8):
            key = mix(mix(mix(seed) ^ epoch) ^ turn)
            left, right = right, (left + (mix(right ^ key) >> 32)) % side
        index = left * side + right
        if index < size:
            return index


@pytest.mark.parametrize("size", [1, 2, 17, 1000, 10_000_019])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (2**32 - 1, 1), (5, 2**40)])
def test_the_permutation_is_that_of_unbounded_integers(size, seed, epoch):
    index = np.arange(0, size, -(-size // 7))
    expected = [plain_permute(i, size, seed=seed, epoch=epoch) for i in index.tolist()]
    assert permute(index, size, seed=seed, epoch=epoch).tolist() == expected


@pytest.mark.parametrize(
    ("size", "seed", "epoch", "golden"),
    [
        (10, 0, 0, [2, 5, 7, 1, 0]),
        (10, 0, 1, [8, 6, 2, 0, 1]),
        (10, 1, 0, [2, 0, 1, 6, 8]),
        (10_000_019, 42, 3, [1592584, 4800385, 2460326, 4850226, 8656144]),
        (
            2**50,
            2**32 - 1,
            2**20,
            [884863430087965, 991277831229643, 839290205641847, 612212887521724, 692178386160325],
        ),
    ],
)
def test_the_permutation_never_changes(size, seed, epoch, golden):
    assert permute(np.arange(5), size, seed=seed, epoch=epoch).tolist() == golden


def test_the_permutation_takes_each_index_by_itself():
    whole = permute(np.arange(1000), 1000, seed=1, epoch=2)
    some = np.array([999, 3, 3, 500], np.int32)
    assert permute(some, 1000, seed=1, epoch=2).tolist() == whole[some].tolist()
    assert permute(some[:0], 1000, seed=1, epoch=2).tolist() == []


def test_places_and_neighbours_are_spread_evenly():
    size, draws = 50, 800
    places, steps = np.zeros((size, size)), np.zeros(size)
    for seed in range(draws):
        permuted = permute(np.arange(size), size, seed=seed, epoch=seed % 3)
        places[np.arange(size), permuted] += 1
        steps += np.bincount(np.diff(permuted) % size, minlength=size)
    # Chi-square over its degrees of freedom: 1 where all is random, give or take 0.03 and 0.2.
    for counts, freedom, allowed in (
        (places, (size - 1) ** 2, 0.1),
        (steps[1:], size - 2, 0.6),
    ):
        expected = counts.mean()
        assert abs(((counts - expected) ** 2 / expected).sum() / freedom - 1) < allowed


def test_targets_are_the_tokens_that_follow():
    windows = SlidingWindows(np.arange(100), 8)
    batch = windows.window(np.array([2, 0]))
    assert isinstance(batch, Batch)
    assert batch.inputs.tolist() == [list(range(16, 24)), list(range(8))]
    assert batch.targets.tolist() == [list(range(17, 25)), list(range(1, 9))]
    assert batch.inputs.dtype == batch.targets.dtype == np.int32


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
@pytest.mark.parametrize(
    ("tokens", "context_length", "stride", "count"),
    [
        (9, 8, None, 1),
        (16, 8, None, 1),
        (17, 8, None, 2),
        (17, 8, 1, 9),
        (20, 4, 3, 6),
        (9, 2, 5, 2),
    ],
)
def test_windows_are_counted(tokens, context_length, stride, count, dtype):
    windows = SlidingWindows(np.arange(tokens, dtype=dtype), context_length, stride)
    assert len(windows) == count
    last = windows.window(np.array([count - 1]))
    assert last.targets[0, -1] < tokens <= last.targets[0, -1] + windows.stride
    with pytest.raises(IndexError):
        windows.window(np.array([count]))
    with pytest.raises(IndexError):
        windows.window(np.array([-1]))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 12])
@pytest.mark.parametrize("stride", [2, 4])
def test_an_epoch_holds_every_window_once(batch_size, stride):
    windows = SlidingWindows(np.arange(50), 4, stride)
    count, epochs = len(windows), 3
    steps = -(-count * epochs // batch_size)
    seen = [
        start
        for step in range(steps)
        for start in starts(windows.batch(step * batch_size, batch_size, seed=5))
    ]
    orders = [seen[epoch * count : (epoch + 1) * count] for epoch in range(epochs)]
    for order in orders:
        assert sorted(order) == [stride * window for window in range(count)]
    assert len({tuple(order) for order in orders}) == epochs


def test_a_batch_depends_on_the_step_and_seed_alone():
    first, second = (SlidingWindows(np.arange(1000), 4) for _ in range(2))
    for step in (7, 0, 100, 7):
        again = starts(second.batch(16 * step, 16, seed=3))
        assert starts(first.batch(16 * step, 16, seed=3)) == again
        assert starts(first.batch(16 * step, 16, seed=4)) != again
        halves = [starts(first.batch(16 * step + 8 * half, 8, seed=3)) for half in (0, 1)]
        assert halves[0] + halves[1] == again


def test_the_order_of_batches_never_changes():
    windows = SlidingWindows(np.arange(101), 10)
    assert [starts(windows.batch(4 * step, 4, seed=0)) for step in range(3)] == [
        [20, 50, 70, 10],
        [0, 60, 90, 30],
        [80, 40, 80, 60],
    ]
    assert starts(windows.batch(4 * 10**12, 4, seed=0)) == [50, 30, 90, 0]


@pytest.mark.parametrize("tokens", [5, 6, 9, 20, 21, 22, 23, 24])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_in_order_scores_every_target_once(tokens, stride, batch_size):
    data = np.arange(100, 100 + tokens)
    scored = Counter()
    for batch in SlidingWindows(data, 4, stride).in_order(batch_size):
        assert batch.inputs.shape == batch.targets.shape == (batch_size, 4)
        rows, places = np.nonzero(batch.targets != IGNORE)
        targets = batch.targets[rows, places]
        scored.update(targets.tolist())
        assert np.array_equal(batch.inputs[rows, places], targets - 1)
        for row, place, target in zip(rows, places, targets, strict=True):
            context = batch.inputs[row, : place + 1]
            assert context.tolist() == list(range(target - place - 1, target))
    assert scored == Counter(data[1:].tolist())


def test_in_order_gives_overlapping_windows_their_context():
    batches = list(SlidingWindows(np.arange(8), 4, 2).in_order(2))
    assert [batch.inputs.tolist() for batch in batches] == [
        [[0, 1, 2, 3], [2, 3, 4, 5]],
        [[4, 5, 6, 0], [0, 0, 0, 0]],
    ]
    assert [batch.targets.tolist() for batch in batches] == [
        [[1, 2, 3, 4], [IGNORE, IGNORE, 5, 6]],
        [[IGNORE, IGNORE, 7, IGNORE], [IGNORE] * 4],
    ]


def test_windows_of_a_split_on_disk(tmp_path):
    text = "".join(map(chr, range(32, 127)))
    documents = [("train", Document(text)), ("validation", Document(text))]
    dataset = write_tokens(tmp_path / "out", ByteTokenizer(), documents, shard_tokens=10)
    windows = SlidingWindows(dataset.split("train"), 16)
    batch = windows.batch(0, 5, seed=0)
    for start, row in zip(starts(batch), batch.inputs, strict=True):
        assert bytes(row.tolist()).decode() == text[start - 32 : start - 16]


def test_too_few_tokens_are_refused_with_the_counts():
    with pytest.raises(DataError, match=r"8 tokens .* one window of 8 .* at most 7"):
        SlidingWindows(np.arange(8), 8)
    windows = SlidingWindows(np.arange(25), 8)
    with pytest.raises(DataError, match=r"25 tokens give 3 windows of 8, .* batch of 4"):
        windows.batch(0, 4, seed=0)
    windows.check_batch_size(3)


@pytest.mark.parametrize(("context_length", "stride"), [(0, None), (-1, None), (4, 0), (4, -2)])
def test_lengths_below_one_are_refused(context_length, stride):
    with pytest.raises(ConfigError, match="must be at least 1, not"):
        SlidingWindows(np.arange(10), context_length, stride)


@pytest.mark.parametrize("tokens", [np.arange(9.0), np.arange(20).reshape(2, 10)])
def test_an_array_of_anything_but_a_row_of_ids_is_refused(tokens):
    unchecked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(DataError, match="must be one row of integers"):
            SlidingWindows(tokens, 4)
    finally:
        jaxtyping.config.update("jaxtyping_disable", unchecked)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_sizes_below_one_are_refused(batch_size):
    windows = SlidingWindows(np.arange(10), 4)
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        windows.batch(0, batch_size, seed=0)
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        next(windows.in_order(batch_size))
