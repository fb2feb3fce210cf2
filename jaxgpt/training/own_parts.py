"""A loss or a block that a caller brings in place of jaxgpt's, beside what a run's record says."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.config import BlockConfig, TrainConfig
from jaxgpt.errors import CheckpointError
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.model.transformer import Block, with_block
from jaxgpt.training.loss import Loss, LossFunction
from jaxgpt.training.step import loss_of

OwnBlock = Block | Callable[..., Any] | None
"""A block, or a function with the arguments of `transformer.block`; None is the standard one."""


def restored_block(config: TrainConfig, block: OwnBlock, folder: Path) -> TrainConfig:
    """The config read from `folder` with `block`, which must be the one that it names.

    Raises CheckpointError with the name of the one that is due.
    """
    trained, given = _name(config), None if block is None else use_block(config, block)
    named = "" if given is None else _name(given)
    if trained != named:
        due = "the standard block; leave block out"
        if trained:
            due = f"the block {trained}, no part of jaxgpt; in Python, pass it as block="
        other = f", not {named or 'the standard one'}" if given else ""
        raise CheckpointError(f"{folder} was trained with {due}{other}")
    return given or config


def use_block(config: TrainConfig, block: Block | Callable[..., Any]) -> TrainConfig:
    """The config of the same run with `block` in its model."""
    return replace(config, model=with_block(config.model, block))


def _name(config: TrainConfig) -> str:
    return str(config.model.block) if isinstance(config.model, BlockConfig) else ""


def own_loss(loss_fn: Callable[..., Loss], config: TrainConfig) -> LossFunction:
    """`loss_fn` with `config` as its argument of that name, if it has one."""
    named = "config" in inspect.signature(loss_fn).parameters
    return partial(loss_fn, config=config) if named else loss_fn


def check_loss(loss_fn: Callable[..., Loss], config: TrainConfig) -> None:
    """Raise ConfigError unless `loss_fn`, of shapes alone, gives a sum and a count."""
    rows = config.batch_size // config.gradient_accumulation
    tokens: Any = jax.ShapeDtypeStruct((rows, config.model.context_length), jnp.int32)
    loss = partial(loss_of, own_loss(loss_fn, config))
    jax.eval_shape(loss, parameter_shapes(config.model), (tokens, tokens), jax.random.key(0))
