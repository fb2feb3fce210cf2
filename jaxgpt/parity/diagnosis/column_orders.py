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
    for order in itertools.permutations(range(3)):
        if order != (0, 1, 2):
            names = ", ".join(("queries", "keys", "values")[part] for part in order)
            taken = partial(jnp.take, indices=jnp.array(order), axis=-3)
            yield names, partial(_rearranged, (3, num_heads), taken)
    if num_heads > 1:
        swapped = partial(jnp.swapaxes, axis1=-3, axis2=-2)
        yield (
            "queries, keys and values of one head after another",
            partial(_rearranged, (3, num_heads), swapped),
        )
        yield (
            "all heads' queries, keys, values, of what stood head after head",
            partial(_rearranged, (num_heads, 3), swapped),
        )


def _rearranged(parts: tuple[int, int], change: Callable[[Array], Array], x: Array) -> Array:
    if x.shape[-1] % (parts[0] * parts[1]):
        return x
    return change(x.reshape(*x.shape[:-1], *parts, -1)).reshape(x.shape)


def turned(weight: Array | np.ndarray) -> Array:
    """`weight` with each of its matrices (D, D), one or several side by side, transposed.

    One of another shape is left as it is.
    """
    rows, columns = weight.shape[-2:]
    if columns % rows:
        return jnp.asarray(weight)
    parts = jnp.split(jnp.asarray(weight), columns // rows, axis=-1)
    return jnp.concatenate([part.mT for part in parts], axis=-1)
