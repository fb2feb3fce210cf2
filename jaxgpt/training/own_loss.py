"""A loss that a caller of `pretrain` brings in place of `next_token_loss`."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.config import TrainConfig
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.training.loss import Loss, LossFunction
from jaxgpt.training.step import loss_of


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
