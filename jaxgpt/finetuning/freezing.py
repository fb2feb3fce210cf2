"""Which parameters are trained; the others are not part of what a step changes.

A step's state holds the trained ones alone, so the rest stays as it is, bit for bit, and costs no
gradient and no memory of the optimizer's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.lora import init_adapters, lora_loss, merge, whole_blocks
from jaxgpt.finetuning.settings import TuningConfig
from jaxgpt.model.layers import Params
from jaxgpt.model.schema import SCHEMA, Rows
from jaxgpt.training.loss import Loss, LossFunction

TrainedBlocks = int | Literal["all"]
"""How much is trained: the last N blocks, the last norm and the head; 0 the head alone; or all."""
_NEW = "new"


def split_params(params: Params, trained: TrainedBlocks) -> tuple[Params, Params]:
    """The trained and the frozen parameters, which `join_params` puts together again.

    Raises ConfigError for a number of blocks that the model has not, or if nothing would be
    trained.
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


@dataclass(frozen=True)
class Trainable:
    """The parameters that are trained, and the frozen ones beside them."""

    trained: Any
    frozen: Any
    join: Callable[[Any, Any], Params]
    """Trained and frozen parameters -> those of the whole model."""
    loss: Callable[[LossFunction, Any], LossFunction]
    """A loss of the whole model, and the frozen parameters -> the loss of the trained ones."""
    adapters: bool = False
    """Whether the trained ones are kept without the base; else the whole model is."""
    new: Sequence[str] = ()
    """The frozen parts that the base does not have: drawn once, and kept with the adapters."""

    def drawn(self, frozen: Any) -> Any:
        """The new ones among the frozen parameters."""
        return {name: frozen[name] for name in self.new}

    def stored(self, trained: Any, frozen: Any) -> Any:
        """What a checkpoint holds."""
        if not self.adapters:
            return self.join(trained, frozen)
        return trained | ({_NEW: self.drawn(frozen)} if self.new else {})


def trainable(
    params: Params,
    config: TuningConfig,
    key: PRNGKeyArray,
    new: Sequence[str] = (),
    rows: Rows = SCHEMA,
) -> Trainable:
    """Part `params` into what `config` trains and the rest; `key` draws the adapters.

    `new` are the parts of `params` that the base does not have, `rows` its schema.
    Raises ConfigError as `split_params` and `init_adapters` do.
    """
    if config.trained == "lora":
        return Trainable(
            init_adapters(params, whole_blocks(params, config.lora, rows), key, rows),
            params,
            join=lambda adapters, base: merge(base, adapters, config.lora, rows),
            loss=lambda loss_fn, base: lora_loss(loss_fn, base, config.lora, rows),
            adapters=True,
            new=new,
        )
    trained, frozen = split_params(params, config.trained)
    return Trainable(trained, frozen, join_params, frozen_loss)


def restore(stored: Any, config: TuningConfig, frozen: Any) -> tuple[Any, Any]:
    """The trained and the frozen parameters: what a checkpoint holds, over what is in `frozen`."""
    if config.trained != "lora":
        return split_params(stored, config.trained)[0], frozen
    adapters = {name: part for name, part in stored.items() if name != _NEW}
    return adapters, frozen | stored.get(_NEW, {})
