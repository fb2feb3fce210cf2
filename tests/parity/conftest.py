"""What it means for two frameworks to agree in float32."""

import math

import jax
import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def full_precision():
    """Accelerators round the factors of a product to fewer bits unless told not to."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread():
    """Arrays this small gain nothing from more, and idle threads would spin."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def rounding():
    """`rounding(n)`: the error that `n` float32 roundings may leave, as a share of the largest
    element.

    One rounding is off by at most 2^-24. Two frameworks sum in different orders, so the errors of
    their n roundings are independent and walk at random: sqrt(n) 2^-24 of a typical element. Of
    some thousands of elements the unluckiest is about 4 times as far off, but the largest, to
    which it is compared, is about 4 times the typical. The 2 leaves room for other processors.
    """
    return lambda n: 2 * math.sqrt(n) * 2.0**-24


@pytest.fixture(scope="session")
def agree():
    """`agree(actual, expected, tolerance)`: no element is further off than that share of the
    largest element in its leaf and the leaf's siblings.

    Siblings share a measure because a key's bias has gradient 0, but for rounding: the softmax does
    not change when all scores of a row rise by the same. Its measure is the key's weight.
    """

    def check(actual, expected, tolerance):
        ours = dict(jax.tree.leaves_with_path(actual))
        theirs = dict(jax.tree.leaves_with_path(expected))
        assert ours.keys() == theirs.keys()
        largest = {}
        for path, leaf in theirs.items():
            largest[path[:-1]] = max(largest.get(path[:-1], 0.0), np.abs(leaf).max())
        for path, leaf in theirs.items():
            name = jax.tree_util.keystr(path)
            assert ours[path].shape == leaf.shape, name
            assert largest[path[:-1]] > 0, f"{name} is zero throughout, which shows nothing"
            error = np.abs(np.asarray(ours[path]) - np.asarray(leaf)).max() / largest[path[:-1]]
            assert error <= tolerance, f"{name} is {error:.1e} of the largest off"

    return check
