"""Whether a step fits into a device's memory, by the plan of it, before anything is allocated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.config import TrainConfig
from jaxgpt.errors import ResourceError
from jaxgpt.model.schema import rows_of
from jaxgpt.training.memory import device_memory
from jaxgpt.training.plan import device_bytes, kept_bytes, make_plan, multiplies_bfloat16
from jaxgpt.training.plan_report import verdict

_MARGIN = 1.15  # what a plan may be off by
# By how much less than the memory training all of it takes, where no batch is looked at.
_SURELY = 4


def check_step(config: TrainConfig, devices: int) -> None:
    """Raise ResourceError, with the arithmetic and what to change, if a step cannot fit."""
    memory = device_memory()
    if memory is None:
        return
    bfloat16 = "all" if config.compute_dtype == "float32" else multiplies_bfloat16(devices)
    plan = make_plan(config, devices, bfloat16=bfloat16)
    if plan.peak > _MARGIN * memory:
        raise ResourceError(
            f"a step takes {plan.peak / 1e9:,.1f} GB on each device: {plan.held / 1e9:,.1f} of "
            f"parameters, optimizer and batch, and {(plan.peak - plan.held) / 1e9:,.1f} of "
            "gradients, activations and logits; it "
            + verdict(
                *(config, plan, memory, devices),
                peak_of=lambda trial: make_plan(trial, devices, bfloat16=bfloat16).peak,
            )
        )


def check_tuning_step(
    config: TrainConfig, devices: int, state: Any, frozen: Any, batch: Callable[[], Any]
) -> None:
    """The same for a step of fine-tuning, whose `state` and `frozen` parameters may be shapes.

    The rows of `batch()` may be longer in other steps, and what a step works in is not counted: it
    takes this much at least.
    """
    memory = device_memory()
    if memory is None or make_plan(config, devices).peak < memory / _SURELY:
        return
    axes, sharing = config.axes, devices // config.axes.tensor
    rows = config.batch_size // sharing // config.gradient_accumulation
    tokens = batch()[0].size // sharing // config.gradient_accumulation
    width = jnp.dtype(config.compute_dtype).itemsize
    # Of what is stacked over the layers, matrices have three axes.
    layers = max(leaf.shape[0] if leaf.ndim == 3 else 0 for leaf in jax.tree.leaves(state.params))
    shared = axes.fsdp, rows_of(config.model), axes.tensor
    gradients = device_bytes(state.params, *shared)
    held = device_bytes(state, *shared) + device_bytes(frozen, *shared)
    needed = held + gradients + kept_bytes(config, tokens, layers, width)
    if needed > _MARGIN * memory:
        raise ResourceError(
            f"a step takes {needed / 1e9:,.1f} GB on each device, for the parameters, what is kept "
            f"of {rows} rows for the backward pass, and the optimizer, but a device has "
            f"{memory / 1e9:,.1f} GB; raise --gradient-accumulation, lower --batch-size, or set "
            "--remat"
        )
