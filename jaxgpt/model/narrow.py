"""Weights in fewer bits than they are multiplied in: a row of decoding waits for their bytes."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_PARTS = 8  # of a weight that one pass reads side by side: more are not vectorised, fewer add more
_INT8 = 127


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NarrowWeight:
    """Weight (I, O) of a linear layer in bfloat16 or int8, which stands for one in `dtype`.

    L is a stack's axis, which may be missing.
    """

    values: Any
    """Its numbers, (*L, P, N, O): the I rows in P parts of N."""
    scale: Any
    """What the numbers of a column are times, (*L, O); None is 1."""
    dtype: Any = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight that it stands for."""
        *front, parts, rows, columns = self.values.shape
        return (*front, parts * rows, columns)

    def widened(self) -> Float[Array, "*L I O"]:
        """The weight in `dtype`."""
        weight = self.values.reshape(self.shape).astype(self.dtype)
        return weight if self.scale is None else weight * self.scale[..., None, :]

    def multiplied(self, rows: Float[Array, "R I"]) -> Float[Array, "R O"]:
        """Product `rows @ weight`; of a single row on a CPU, by one pass over the narrow numbers.

        Of more rows, XLA:CPU writes the weight to memory in `dtype`.
        """
        if len(rows) == 1 and jax.default_backend() == "cpu":
            product = self._row_product(rows[0])[None]
        else:
            product = rows @ self.values.reshape(self.shape).astype(self.dtype)
        return product if self.scale is None else product * self.scale

    def _row_product(self, row: Float[Array, " I"]) -> Float[Array, " O"]:
        # XLA would compute the row anew for each column, and widen the weight once, before a loop.
        values, row = jax.lax.optimization_barrier((self.values, row.astype(self.dtype)))
        parts = zip(values, row.reshape(*values.shape[:2], 1), strict=True)
        sums: Any = sum(part.astype(self.dtype) * numbers for part, numbers in parts)
        # A product, not a sum: XLA:CPU would read all again for each of the numbers it adds.
        return jnp.ones(len(sums), self.dtype) @ sums


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NarrowTable:
    """Table (V, D) of vectors in bfloat16 or int8, whose transpose is a weight."""

    T: NarrowWeight

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, D)."""
        return self.T.shape[::-1]

    @property
    def dtype(self) -> Any:
        """Of its vectors."""
        return self.T.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """The vectors at `places`."""
        columns = jnp.take(self.T.values, places, axis=-1).reshape(self.shape[1], *places.shape)
        found = jnp.moveaxis(columns, 0, -1).astype(self.dtype)
        return found if self.T.scale is None else found * self.T.scale[places][..., None]


def narrowed(weight: Float[Array, "I O"], kept: Any, dtype: Any) -> NarrowWeight:
    """A weight kept in the dtype `kept`, for one in `dtype`.

    In int8, each column is rounded to 255 steps up to its largest number (Dettmers et al. 2022).
    """
    scale = None
    if kept == jnp.int8:
        weight = weight.astype(jnp.float32)
        scale = jnp.maximum(jnp.abs(weight).max(axis=0) / _INT8, jnp.finfo(jnp.float32).tiny)
        weight, scale = jnp.round(weight / scale), scale.astype(dtype)
    parts = math.gcd(len(weight), _PARTS)
    return NarrowWeight(weight.astype(kept).reshape(parts, -1, weight.shape[1]), scale, dtype)


def is_narrow(leaf: Any) -> bool:
    """Whether a leaf of parameters is a narrow weight or table."""
    return isinstance(leaf, NarrowWeight | NarrowTable)


def widen(params: Any, *, transposed: bool = False) -> Any:
    """Parameters with whole weights, maybe transposed, for narrow ones; no other is copied."""

    def wide(leaf: Any) -> Any:
        return _whole(leaf, transposed) if is_narrow(leaf) else leaf

    return jax.tree.map(wide, params, is_leaf=is_narrow)


@partial(jax.jit, static_argnums=1)
def _whole(leaf: NarrowWeight | NarrowTable, transposed: bool) -> Float[Array, "*L I O"]:
    table = isinstance(leaf, NarrowTable)
    weight = leaf.T.widened() if table else leaf.widened()
    return weight.mT if table != transposed else weight
