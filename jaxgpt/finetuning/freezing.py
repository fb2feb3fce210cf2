"""Which parameters are trained; the others are not part of what a step changes.

A step's state holds the trained ones alone, so the rest stays as it is, bit for bit, and costs no
gradient and no memory of the optimizer's.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxgpt.errors import ConfigError
from jaxgpt.model.layers import Params
from jaxgpt.training.loss import Loss, LossFunction

TrainedBlocks = int | Literal["all"]
"""How much is trained: the last N blocks, the last norm and the head; 0 the head alone; or all."""


def split_params(params: Params, trained: TrainedBlocks) -> tuple[Params, Params]:
    """The trained and the frozen parameters, which `join_params` puts together again.

    Raises:
        ConfigError: a number of blocks that the model has not, or nothing that would be trained.
    """
    if trained == "all":
        return params, {}
    num_layers = len(jax.tree.leaves(params["blocks"])[0])
    if not 0 <= trained <= num_layers:
        raise ConfigError(
            f"trained blocks are {trained}; it must be all, or from 0 to {num_layers}"
        )
    names = ("head",) if trained == 0 else ("head", "norm")
    ours: Params = {name: params[name] for name in names if name in params}
    if not ours:
        raise ConfigError("the head is the token table (tied); train one block or more")
    rest = {name: leaf for name, leaf in params.items() if name not in ours | {"blocks": None}}
    cut = num_layers - trained
    if trained:
        ours["blocks"] = jax.tree.map(lambda leaf: leaf[cut:], params["blocks"])
    if cut:
        rest["blocks"] = jax.tree.map(lambda leaf: leaf[:cut], params["blocks"])
    return ours, rest


def join_params(trained: Params, frozen: Params) -> Params:
    """The parameters of the whole model."""
    joined = frozen | trained
    if "blocks" in trained and "blocks" in frozen:
        joined["blocks"] = jax.tree.map(
            lambda first, last: jnp.concatenate([first, last]), frozen["blocks"], trained["blocks"]
        )
    return joined


def frozen_loss(loss_fn: LossFunction, frozen: Params) -> LossFunction:
    """`loss_fn` as a loss of the trained parameters alone.

    Whoever compiles a step with it passes `frozen` to the compiled function, and makes the loss
    inside: of arrays that it finds outside, JAX would write a copy into the program.
    """

    def loss(trained: Params, batch: Any, rng: PRNGKeyArray | None) -> Loss:
        joined = frozen | trained
        if "blocks" in trained and "blocks" in frozen:
            # Not joined: the backward pass then ends where the trained blocks begin.
            joined["blocks"] = (frozen["blocks"], trained["blocks"])
        return loss_fn(joined, batch, rng)

    return loss
