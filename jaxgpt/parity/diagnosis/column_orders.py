"""The orders in which implementations lay queries, keys and values side by side."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def column_orders(num_heads: int) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """Each order but the present one, in words, with the change of the last axis, 3 D, to it."""
    for order in itertools.permutations(range(3)):
        if order != (0, 1, 2):
            names = ", ".join(("queries", "keys", "values")[part] for part in order)
            yield names, partial(_permute, order)
    if num_heads > 1:
        yield "queries, keys and values of one head after another", partial(_interleave, num_heads)
        yield (
            "all heads' queries, keys, values, of what stood head after head",
            partial(_separate, num_heads),
        )


def _permute(order: tuple[int, ...], x: Array) -> Array:
    parts = jnp.split(x, 3, axis=-1)
    return jnp.concatenate([parts[part] for part in order], axis=-1)


def _interleave(num_heads: int, x: Array) -> Array:
    return x.reshape(*x.shape[:-1], 3, num_heads, -1).swapaxes(-3, -2).reshape(x.shape)


def _separate(num_heads: int, x: Array) -> Array:
    return x.reshape(*x.shape[:-1], num_heads, 3, -1).swapaxes(-3, -2).reshape(x.shape)


def thirds_turned(weight: Array | np.ndarray) -> Array:
    """(D, 3 D) with each of the three matrices (D, D) transposed."""
    parts = jnp.split(jnp.asarray(weight), 3, axis=-1)
    return jnp.concatenate([part.mT for part in parts], axis=-1)
