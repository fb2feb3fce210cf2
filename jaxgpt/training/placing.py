"""Arrays of the host -> arrays on a mesh, of which each process lays its own part."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Int


def place(tree: Any, sharding: Any) -> Any:
    """`jax.device_put`, also where devices are another process's; all give the same values.

    `sharding` is one for all leaves, or a tree of them.
    """
    if jax.process_count() == 1 or sharding is None:
        return jax.device_put(tree, sharding)
    if isinstance(sharding, Sharding):
        return jax.tree.map(lambda leaf: _place(leaf, sharding), tree)
    return jax.tree.map(_place, tree, sharding)


def _place(leaf: Any, sharding: Sharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(_same, out_shardings=sharding)(leaf)
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def own_rows(sharding: Sharding, count: int) -> Int[np.ndarray, " N"]:
    """Which of `count` rows lie on this process's devices, in order."""
    every = np.arange(count)
    parts = sharding.addressable_devices_indices_map((count,)).values()
    return np.unique(np.concatenate([every[index or ()] for index in parts]))


def place_rows(tree: Any, rows: Int[np.ndarray, " N"], count: int, sharding: Sharding) -> Any:
    """`place` of arrays with `count` rows, of which this process has its `own_rows` alone."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def lay(own: Any) -> jax.Array:
        def part(index: Any) -> Any:
            wanted = np.arange(count)[index[0]]
            return own[(np.searchsorted(rows, wanted), *index[1:])]

        return jax.make_array_from_callback((count, *own.shape[1:]), sharding, part)

    return jax.tree.map(lay, tree)


def to_host(tree: Any) -> Any:
    """The whole of each array, on every process; all are to call it."""

    def whole(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            assert isinstance(leaf.sharding, NamedSharding)
            everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
            leaf = jax.jit(_same, out_shardings=everywhere)(leaf)
        return jax.device_get(leaf)

    return jax.tree.map(whole, tree)


def computed(tree: Any) -> Any:
    """`tree`, once it is computed where a processor stands for several devices.

    These share its threads, which two programs that overlap can all hold while each waits for a
    device of its own; so there is one at a time.
    """
    if jax.default_backend() == "cpu" and jax.local_device_count() > 1:
        jax.block_until_ready(tree)
    return tree


def _same(x: jax.Array) -> jax.Array:
    return x  # one function, so that it is compiled once for a shape
