"""Where a computation lies on a mesh of devices, where one is in sight (`training.mesh.on_mesh`).

Rows of a batch lie across all axes of the mesh but `tensor`; across that one, heads, the hidden
width and the vocabulary.
"""

from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

FSDP, TENSOR = "fsdp", "tensor"


def row_axes(mesh: Any) -> tuple[str, ...]:
    """The axes of a mesh across which the rows of a batch lie."""
    return tuple(name for name in mesh.axis_names if name != TENSOR)


def row_devices() -> int:
    """How many devices share the rows of a batch; 1 where there is no mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size // tensor_devices()


def tensor_devices() -> int:
    """How many devices share heads, hidden width and vocabulary; 1 where there is no mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(TENSOR, 1)


def by_rows(x: Array) -> Array:
    """`x` with its rows, the first axis, across the devices that share them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(row_axes(mesh)))


def from_table(x: Array) -> Array:
    """Vectors from a table that is cut along D, (B, T, D), with their rows where they belong.

    In two steps, first as the table lies: from there, XLA sends each device its rows alone, where
    it would else give all rows to every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.shape.get(FSDP, 1) == 1 or x.ndim != 3:
        return x
    others = tuple(name for name in row_axes(mesh) if name != FSDP)
    return by_rows(jax.lax.with_sharding_constraint(x, PartitionSpec(others, None, FSDP)))


def vocabulary_by_tensor(table: Array) -> Array:
    """A table, (V, D), with V across the `tensor` devices, where there are some, and D as kept.

    It may have lain along D, where they do not divide V without padding.
    """
    if tensor_devices() == 1:
        return table
    spec = PartitionSpec(
        TENSOR, FSDP if FSDP in jax.sharding.get_abstract_mesh().axis_names else None
    )
    return jax.lax.with_sharding_constraint(table, spec)


def columns_by_tensor(weight: Array) -> Array:
    """A weight, (I, O), or a bias, (O), with its columns across the `tensor` devices.

    By way of how it is kept: XLA finds no way of several steps, and would send all to all.
    """
    steps: list[Any] = [(None,), (TENSOR,)]
    if weight.ndim == 2:
        steps = [((FSDP, TENSOR), None), (FSDP, TENSOR)]
    for step in steps:
        weight = jax.lax.with_sharding_constraint(weight, PartitionSpec(*step))
    return weight
