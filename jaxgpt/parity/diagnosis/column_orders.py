"""The orders in which implementations lay queries, keys and values side by side."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def column_orders(num_heads: int) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """Each order but the present one, in words, with the change of the last axis, E, to it.

    Columns that are not as many for queries as for keys and values are left as they are.
    """
    by_part, by_head = (partial(_rearranged, parts) for parts in ((3, num_heads), (num_heads, 3)))
    for order in list(itertools.permutations(range(3)))[1:]:
        names = ", ".join(("queries", "keys", "values")[part] for part in order)
        yield names, partial(by_part, partial(jnp.take, indices=jnp.array(order), axis=-3))
    if num_heads > 1:
        swapped = partial(jnp.swapaxes, axis1=-3, axis2=-2)
        yield "queries, keys and values of one head after another", partial(by_part, swapped)
        words = "all heads' queries, keys, values, of what stood head after head"
        yield words, partial(by_head, swapped)


def _rearranged(parts: tuple[int, int], change: Callable[[Array], Array], x: Array) -> Array:
    if x.shape[-1] % (parts[0] * parts[1]):
        return x
    return change(x.reshape(*x.shape[:-1], *parts, -1)).reshape(x.shape)


def turned(weight: Array | np.ndarray) -> Array:
    """`weight` with its matrices (D, D), side by side, transposed; another shape as it is."""
    rows, columns = weight.shape[-2:]
    if columns % rows:
        return jnp.asarray(weight)
    parts = jnp.split(jnp.asarray(weight), columns // rows, axis=-1)
    return jnp.concatenate([part.mT for part in parts], axis=-1)
