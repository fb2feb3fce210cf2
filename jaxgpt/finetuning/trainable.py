"""What fine-tuning changes of a model, what stays, and how the two are one model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import PRNGKeyArray

from jaxgpt.finetuning.freezing import frozen_loss, join_params, split_params
from jaxgpt.finetuning.lora import init_adapters, lora_loss, merge
from jaxgpt.finetuning.settings import TuningConfig
from jaxgpt.model.layers import Params
from jaxgpt.model.schema import SCHEMA, Rows
from jaxgpt.training.loss import LossFunction

_NEW = "new"


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
            init_adapters(params, config.lora, key, rows),
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
