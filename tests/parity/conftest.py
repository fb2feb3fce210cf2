"""What it means for two frameworks to agree in float32."""

import math

import jax
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
