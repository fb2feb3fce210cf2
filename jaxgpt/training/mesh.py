"""Devices in a grid, and which axis of each parameter lies across them."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model.schema import SCHEMA, Rows, dimensions, names_of, sharded_axis
from jaxgpt.shell import install_extra


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
    """All devices in a grid with the axes `data` and `fsdp`; raises ConfigError as `grid` does."""
    shape = grid(config, jax.device_count())
    return jax.make_mesh(shape, ("data", "fsdp"), (AxisType.Auto, AxisType.Auto))


def grid(config: TrainConfig, count: int) -> tuple[int, int]:
    """How many of `count` devices lie along `data` and along `fsdp`.

    Raises ConfigError if their product is not `count`, or if the batch or the parameters cannot be
    shared evenly.
    """
    data = config.data_parallel or max(1, count // config.fsdp)
    if data * config.fsdp != count:
        raise ConfigError(
            f"data_parallel {data} times fsdp {config.fsdp} is {data * config.fsdp}, but there are "
            f"{count} devices; the product must be {count}"
        )
    unit = count * config.gradient_accumulation
    if config.batch_size % unit:
        nearest = max(1, round(config.batch_size / unit)) * unit
        raise ConfigError(
            f"batch_size is {config.batch_size}; it must be a multiple of {unit} ({count} devices "
            f"times gradient_accumulation {config.gradient_accumulation}), such as {nearest}"
        )
    _check_width(config.model, config.fsdp)
    return data, config.fsdp


def _check_width(model: ModelConfig, fsdp: int) -> None:
    sizes = dimensions(model)
    shared = {"D": "embed_dim", "C": "num_heads times head_dim", "F": "hidden_dim"}
    for letter, name in shared.items():
        if sizes[letter] % fsdp:
            raise ConfigError(f"{name} is {sizes[letter]}; fsdp {fsdp} must divide it")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch across all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_shardings(tree: Any, mesh: Mesh, rows: Rows = SCHEMA) -> Any:
    """A sharding for each leaf of a tree of parameters or optimizer state, by the schema."""

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        axis = sharded_axis(names_of(path), rows)
        names: list[str | None] = [None] * len(leaf.shape)
        if axis is not None:
            names[axis] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*names))

    return jax.tree.map_with_path(sharding, tree)


def on_mesh(function: Callable, mesh: Mesh) -> Callable:
    """`function` traced with `mesh` in sight, for kernels that XLA cannot divide by itself."""

    # The name is what a trace and a log of compilations call the program.
    @functools.wraps(getattr(function, "func", function))
    def within(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return within
