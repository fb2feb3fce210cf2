"""Whether a step fits into a device's memory, by the plan of it, before anything is allocated."""

from typing import Any

import jax

from jaxgpt.config import TrainConfig
from jaxgpt.errors import ResourceError
from jaxgpt.model.parameters import count_parameters
from jaxgpt.training.memory import BYTES_PER_PARAMETER, device_memory
from jaxgpt.training.plan import make_plan, multiplies_bfloat16, step_bytes
from jaxgpt.training.plan_report import verdict

_MARGIN = 1.15  # what a plan may be off by
_SURELY = 4  # by how much less than the memory a step that fits without a look may take
_PER_TOKEN = 16  # numbers that a block keeps for the backward pass, in widths of the model
_LOGITS = 1 << 30


def check_step(config: TrainConfig, devices: int) -> None:
    """Raise ResourceError, with the arithmetic and what to change, if a step cannot fit.

    What is far from the limit is not planned, which takes about half a second.
    """
    memory = device_memory()
    if memory is None or _roughly(config, devices) < memory / _SURELY:
        return
    bfloat16 = multiplies_bfloat16()
    plan = make_plan(config, devices, bfloat16=bfloat16)
    if plan.peak > _MARGIN * memory:
        raise ResourceError(
            f"a step takes {plan.peak / 1e9:,.1f} GB on each device: {plan.held / 1e9:,.1f} of "
            f"parameters, optimizer and batch, and {(plan.peak - plan.held) / 1e9:,.1f} of "
            f"gradients, activations and logits; it "
            + verdict(config, plan, memory, devices, bfloat16=bfloat16)
        )


def check_tuning_step(
    config: TrainConfig, devices: int, step_fn: Any, state: Any, batch: Any, frozen: Any
) -> None:
    """The same for a step of fine-tuning on one of several devices.

    `step_fn` is jitted on `plan.one_device()`, and takes `state`, `frozen` and a device's share of
    what `batch()` gives, whose rows may be longer in other steps: it takes this much at least.
    """
    memory = device_memory()
    if memory is None or _roughly(config, devices) < memory / _SURELY:
        return
    share = [
        jax.ShapeDtypeStruct((len(array) // devices, *array.shape[1:]), array.dtype)
        for array in batch()
    ]
    needed = step_bytes(
        step_fn, config, state, (tuple(share), 0, frozen), bfloat16=multiplies_bfloat16()
    )
    if needed > _MARGIN * memory:
        raise ResourceError(
            f"a step takes {needed / 1e9:,.1f} GB on each device, for the parameters, what is kept "
            f"of {config.batch_size // devices // config.gradient_accumulation} rows for the "
            f"backward pass, and the optimizer, but a device has {memory / 1e9:,.1f} GB; raise "
            "--gradient-accumulation, lower --batch-size, or set --remat"
        )


def _roughly(config: TrainConfig, devices: int) -> int:
    """Bytes of a step on each device, by a count that is rather too high."""
    model = config.model
    rows = config.batch_size // devices // config.gradient_accumulation
    kept = model.context_length * (
        _PER_TOKEN * model.embed_dim + model.num_heads * model.context_length
    )
    activations = 4 * rows * model.num_layers * kept
    return count_parameters(model) * BYTES_PER_PARAMETER // config.fsdp + activations + _LOGITS
