"""Devices in a grid, and which axis of each parameter lies across them."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgpt.axes import Axes
from jaxgpt.config import TrainConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model.layout import row_axes
from jaxgpt.model.schema import (
    SCHEMA,
    Rows,
    dimensions,
    names_of,
    sharded_axis,
    tensor_axis,
)
from jaxgpt.shell import install_extra

_CUT = {"H": "num_heads", "G": "num_kv_heads", "F": "hidden_dim"}


def select_platform(name: str) -> None:
    """Run on `name` (auto, cpu, gpu or tpu); raises ConfigError if there is none, never falls back.

    To be called before JAX is used for the first time; auto takes the best that there is.
    """
    if name == "cpu":
        # By itself JAX prefers an accelerator. For one, asking by name would not do: "gpu" means
        # all of cuda, rocm and oneapi to it, and it stops at the first that is missing.
        jax.config.update("jax_platforms", name)
    try:
        there = jax.default_backend()
    except (RuntimeError, AssertionError) as error:
        asked, why = os.environ.get("JAX_PLATFORMS"), str(error) or "no such device"
        raise ConfigError(f"JAX cannot start with JAX_PLATFORMS={asked}: {why}") from None
    if name not in ("auto", there):
        extra = install_extra("cuda" if name == "gpu" else name)
        raise ConfigError(
            f"--platform {name}: no such device here; available: {there}; take that one, or "
            f"install JAX for {name}: `{extra}`"
        )


def make_mesh(config: TrainConfig) -> Mesh:
    """All devices, of all processes, in a grid with the axes of `Axes`; raises as `grid` does.

    Devices that are next to each other lie along `tensor`, then along `fsdp`: those of a process
    have consecutive numbers, and the most is sent along these.
    """
    sizes = grid(config, jax.device_count())
    return jax.make_mesh(sizes, Axes._fields, (AxisType.Auto,) * len(sizes))


def grid(config: TrainConfig, count: int) -> Axes:
    """How many of `count` devices lie along each axis.

    Raises ConfigError if their product is not `count`, or if the batch or the parameters cannot be
    shared evenly.
    """
    axes = config.axes
    rest = axes.fsdp * axes.tensor
    axes = axes._replace(data=axes.data or max(1, count // rest))
    if (product := axes.data * rest) != count:
        raise ConfigError(
            f"mesh {axes} takes {product}, but there {_are(count)}; the product of its axes must "
            "be that number"
        )
    unit = axes.data * axes.fsdp * config.gradient_accumulation
    if config.batch_size % unit:
        nearest = max(1, round(config.batch_size / unit)) * unit
        raise ConfigError(
            f"batch_size is {config.batch_size}; it must be a multiple of {unit} "
            f"({axes.data * axes.fsdp} devices times gradient_accumulation "
            f"{config.gradient_accumulation}), such as {nearest}"
        )
    _check_shares(dimensions(config.model), axes)
    return axes


def _are(count: int) -> str:
    return "is 1 device" if count == 1 else f"are {count} devices"


def _check_shares(sizes: dict[str, int], axes: Axes) -> None:
    """Raise ConfigError for an axis of the parameters that cannot be shared evenly."""
    if sizes["D"] % axes.fsdp:
        raise ConfigError(f"embed_dim is {sizes['D']}; fsdp {axes.fsdp} must divide it")
    if axes.tensor == 1:
        return
    for letter, name in _CUT.items():
        if sizes[letter] % axes.tensor:
            raise ConfigError(f"{name} is {sizes[letter]}; tensor {axes.tensor} must divide it")
    if sizes["D"] % (axes.fsdp * axes.tensor):
        raise ConfigError(
            f"embed_dim is {sizes['D']}; fsdp {axes.fsdp} times tensor {axes.tensor} must divide it"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch across all devices, but for those that share heads."""
    return NamedSharding(mesh, PartitionSpec(row_axes(mesh)))


def state_shardings(tree: Any, mesh: Mesh, rows: Rows = SCHEMA) -> Any:
    """A sharding for each leaf of a tree of parameters or optimizer state, by the schema."""
    devices = mesh.shape.get("tensor", 1)

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, leaf_spec(names_of(path), leaf.shape, devices, rows))

    return jax.tree.map_with_path(sharding, tree)


def leaf_spec(
    names: list[str], shape: tuple[int, ...], tensor: int = 1, rows: Rows = SCHEMA
) -> PartitionSpec:
    """The axes of the mesh across which each axis of a leaf lies; `tensor` devices share heads."""
    fsdp = sharded_axis(names, rows)
    cut = None if tensor == 1 else tensor_axis(names, shape, tensor, rows)
    spec: list[Any] = [None] * len(shape)
    if cut is not None:
        spec[cut] = "tensor"
    if fsdp is not None:
        spec[fsdp] = ("fsdp", "tensor") if fsdp == cut else "fsdp"
    return PartitionSpec(*spec)


def on_mesh(function: Callable, mesh: Mesh) -> Callable:
    """`function` traced with `mesh` in sight, for kernels that XLA cannot divide by itself."""

    # The name is what a trace and a log of compilations call the program.
    @functools.wraps(getattr(function, "func", function))
    def within(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return within
