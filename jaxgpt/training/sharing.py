"""Loaded models across devices, to write, to answer and to be measured with."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from jaxgpt.model.schema import rows_of
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.mesh import make_mesh, state_shardings
from jaxgpt.training.placing import place


def share(load: Callable[[], LoadedModel], mesh: str) -> LoadedModel:
    """Model that `load` gives, with its parameters across all devices as `mesh` says.

    It is loaded into the host's memory first, as it may be larger than a device's. An empty `mesh`
    leaves it on one device. Raises ConfigError for axes that the devices or the model do not have,
    and what `load` raises.
    """
    if not mesh:
        return load()
    with _on_host():
        model = load()
    run = replace(model.train_config, mesh=mesh, data_parallel=0, fsdp=1, gradient_accumulation=1)
    devices = make_mesh(replace(run, batch_size=jax.device_count()))
    shardings = state_shardings(model.params, devices, rows_of(model.config))
    return replace(model, params=place(model.params, shardings))


def mesh_of(params: Any) -> Mesh | None:
    """The mesh across which parameters lie; None if they are on one device."""
    sharding = jax.tree.leaves(params)[0].sharding
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return mesh if isinstance(mesh, Mesh) else None


def _on_host() -> Any:
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # where JAX_PLATFORMS leaves the processor out
        return nullcontext()
