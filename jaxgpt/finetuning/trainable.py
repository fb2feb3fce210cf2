"""What fine-tuning changes of a model, what stays, and how the two are one model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import PRNGKeyArray

from jaxgpt.finetuning.freezing import frozen_loss, join_params, split_params
from jaxgpt.finetuning.lora import init_adapters, lora_loss, merge
from jaxgpt.finetuning.settings import TuningConfig
from jaxgpt.model.layers import Params
from jaxgpt.training.loss import LossFunction


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
    """Whether the trained ones are kept by themselves; else the whole model is."""

    def stored(self, trained: Any, frozen: Any) -> Any:
        """What a checkpoint holds."""
        return trained if self.adapters else self.join(trained, frozen)


def trainable(params: Params, config: TuningConfig, key: PRNGKeyArray) -> Trainable:
    """Part `params` into what `config` trains and the rest; `key` draws the adapters.

    Raises ConfigError as `split_params` and `init_adapters` do.
    """
    if config.trained == "lora":
        return Trainable(
            init_adapters(params, config.lora, key),
            params,
            join=lambda adapters, base: merge(base, adapters, config.lora),
            loss=lambda loss_fn, base: lora_loss(loss_fn, base, config.lora),
            adapters=True,
        )
    trained, frozen = split_params(params, config.trained)
    return Trainable(trained, frozen, join_params, frozen_loss)


def restore_trained(stored: Any, config: TuningConfig) -> Any:
    """The trained parameters in what a checkpoint holds."""
    return stored if config.trained == "lora" else split_params(stored, config.trained)[0]
