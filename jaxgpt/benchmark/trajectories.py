"""The same training in jaxgpt and in PyTorch, step by step: start, data, schedule and AdamW."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Float64, Int32
from torch.nn import functional

from jaxgpt.benchmark.jax_trainer import JaxTrainer
from jaxgpt.config import TrainConfig
from jaxgpt.data.batches import Batch, SlidingWindows
from jaxgpt.errors import ConfigError
from jaxgpt.model.layers import Params
from jaxgpt.parity import torch_reference
from jaxgpt.parity.torch_random import init_like_torch
from jaxgpt.training.optimizer import learning_rate

Losses = Float64[np.ndarray, " steps"]
"""The training loss of each step, in nats per token."""


@dataclass(frozen=True)
class Trajectories:
    """The same training four times: two programs in float32, one of them twice, and the truth."""

    jaxgpt: Losses
    torch: Losses
    """PyTorch with one thread."""
    torch_two_threads: Losses
    """PyTorch with two, which add the same numbers in another order: another rounding."""
    float64: Losses
    """PyTorch with twice the digits, beside which float32's rounding shows."""


def compare_training(config: TrainConfig, tokens: Int32[np.ndarray, " N"]) -> Trajectories:
    """Train four times from what PyTorch draws under `torch.manual_seed(config.seed)`.

    All take the same batches of `tokens`, and the schedule and AdamW of `config`. Dropout must be
    0, for the two programs draw other masks.
    """
    if config.model.dropout:
        raise ConfigError(f"dropout is {config.model.dropout}; it must be 0 to compare training")
    windows = SlidingWindows(tokens, config.model.context_length, config.data.stride or None)
    params = init_like_torch(config.model, config.seed)
    batches = [
        windows.batch(step * config.batch_size, config.batch_size, seed=config.seed)
        for step in range(config.steps)
    ]
    return Trajectories(
        jaxgpt=train_in_jax(config, params, batches),
        torch=train_in_torch(config, params, batches, threads=1),
        torch_two_threads=train_in_torch(config, params, batches, threads=2),
        float64=train_in_torch(config, params, batches, threads=1, dtype=torch.float64),
    )


def train_in_jax(config: TrainConfig, params: Params, batches: list[Batch]) -> Losses:
    """The loss of each step as `pretrain` takes it, in float32 at full precision."""
    with jax.default_matmul_precision("highest"):
        return np.array(JaxTrainer(config, params).run(batches))


def train_in_torch(
    config: TrainConfig,
    params: Params,
    batches: list[Batch],
    threads: int,
    dtype: torch.dtype = torch.float32,
) -> Losses:
    """The same of PyTorch on a CPU with `threads` threads, in `dtype`."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = torch_reference.from_params(config.model, params).to(dtype)
        optimizer = torch_reference.configure_adamw(model, config.optimizer)
        schedule = learning_rate(config.optimizer, config.steps)
        rates = np.asarray(jax.vmap(schedule)(jnp.arange(config.steps))).tolist()
        steps = zip(rates, batches, strict=True)
        return np.array([_torch_step(model, optimizer, config, *step) for step in steps])
    finally:
        torch.set_num_threads(before)


def _torch_step(
    model: torch.nn.Module, optimizer: Any, config: TrainConfig, rate: float, batch: Batch
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    inputs, targets = (torch.from_numpy(part).long() for part in (batch.inputs, batch.targets))
    loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    loss.backward()
    if config.optimizer.gradient_clip != "none":
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.gradient_clip)
    optimizer.step()
    return loss.item()
