"""Batches that a GPU or TPU cuts for itself, from tokens that lie in its memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from jaxgpt.data.batches import SlidingWindows
from jaxgpt.training.memory import device_memory
from jaxgpt.training.mesh import batch_sharding
from jaxgpt.training.placing import own_rows, place, place_rows

_SHARE = 1 / 20  # of a device's memory that tokens may take


def batch_source(
    windows: SlidingWindows, batch_size: int, seed: int, mesh: Mesh
) -> Callable[[int], Any]:
    """First row -> the (inputs, targets) of `windows.batch` on the devices of `mesh`.

    Where the tokens take little of an accelerator's memory they are copied there once, and a step
    sends only where its windows begin. On a CPU they stay in their files, of which each process
    reads the rows of its own devices.
    """
    if tokens_fit(len(windows.tokens)):
        return from_device(windows, batch_size, seed, mesh)
    sharding = batch_sharding(mesh)
    rows = own_rows(sharding, batch_size)

    def batch_at(row: int) -> Any:
        batch = windows.window(windows.indices(row, batch_size, seed=seed)[rows])
        return place_rows((batch.inputs, batch.targets), rows, batch_size, sharding)

    return batch_at


def tokens_fit(count: int) -> bool:
    """Whether `count` tokens should be copied to the device that JAX takes by default."""
    memory = device_memory()
    if jax.default_backend() == "cpu" or memory is None:
        return False
    return 4 * count <= _SHARE * memory and count < 2**31


def from_device(
    windows: SlidingWindows, batch_size: int, seed: int, mesh: Mesh
) -> Callable[[int], Any]:
    """`batch_source` with the tokens on the devices, each of which has all of them."""
    everywhere, sharding = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    tokens = place(windows.tokens.read(0, len(windows.tokens)), everywhere)
    cut = jax.jit(partial(_cut, length=windows.context_length), out_shardings=sharding)

    def batch_at(row: int) -> Any:
        starts = windows.starts(windows.indices(row, batch_size, seed=seed))
        return cut(tokens, place(starts.astype(np.int32), sharding))

    return batch_at


def _cut(
    tokens: Int[Array, " N"], starts: Int[Array, " B"], *, length: int
) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    rows = tokens[starts[:, None] + jnp.arange(length + 1)]
    return rows[:, :-1], rows[:, 1:]
