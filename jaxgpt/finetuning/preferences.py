"""Preferences: of two answers, make the chosen one likelier (DPO; Rafailov et al. 2023).

An answer's reward is beta times how much likelier the model finds it than a reference does, which
is the model before. The loss is -log sigmoid(chosen's reward - rejected's): ln 2 at the start.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxgpt.compute import Compute
from jaxgpt.config import ModelConfig
from jaxgpt.data.batches import IGNORE
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.settings import PreferenceConfig
from jaxgpt.model.layers import Params
from jaxgpt.training.loss import AS_IT_IS, Loss, LossFunction, row_likelihood


class Pairs(NamedTuple):
    """A batch of B pairs; on the second axis, the chosen answer and the rejected one."""

    inputs: Int[Array | np.ndarray, "B 2 T"]
    """The prompt and the answer."""
    targets: Int[Array | np.ndarray, "B 2 T"]
    """The token after each; -100 where that is not the answer's."""
    reference: Float[Array | np.ndarray, "B 2"] | None = None
    """The answers' log-probabilities under the reference, once they are measured."""


def pair_likelihood(
    config: ModelConfig, preference: PreferenceConfig, compute: Compute = AS_IT_IS
) -> Callable[..., Float[Array, "B 2"]]:
    """A function of parameters, `Pairs` and a random key or None: the answers' log-probabilities.

    In nats. Under the reference's parameters, it gives what `Pairs.reference` holds.
    """
    measure = row_likelihood(config, compute)

    def likelihood(
        params: Params, pairs: Pairs, rng: PRNGKeyArray | None = None
    ) -> Float[Array, "B 2"]:
        shape = (-1, pairs.inputs.shape[-1])
        inputs, targets = jnp.reshape(pairs.inputs, shape), jnp.reshape(pairs.targets, shape)
        nats, count = measure(params, inputs, targets, rng)
        if preference.log_probability == "mean":
            nats = nats / jnp.maximum(count, 1)
        return nats.reshape(-1, 2)

    return likelihood


def preference_loss(
    config: ModelConfig, preference: PreferenceConfig, compute: Compute = AS_IT_IS
) -> LossFunction:
    """DPO's loss on `Pairs` with a reference: summed in nats, and the number of pairs.

    A pair without a target in both answers adds nothing to either. Raises ConfigError at the first
    call if the pairs have no reference.
    """
    rewards = _rewards(config, preference, compute)

    def loss(params: Params, pairs: Pairs, rng: PRNGKeyArray | None) -> Loss:
        (chosen, rejected), counted = rewards(params, pairs, rng)
        nats = jnp.where(counted, -jax.nn.log_sigmoid(chosen - rejected), 0).sum()
        return nats, counted.sum(dtype=jnp.int32)

    return loss


def preference_sums(
    config: ModelConfig, preference: PreferenceConfig, compute: Compute = AS_IT_IS
) -> Callable[[Params, Pairs], dict[str, Float[Array, ""]]]:
    """A function of parameters and `Pairs`: their number, and sums of what `evaluate` averages."""
    rewards = _rewards(config, preference, compute)

    def sums(params: Params, pairs: Pairs) -> dict[str, Float[Array, ""]]:
        (chosen, rejected), counted = rewards(params, pairs, None)
        margin = chosen - rejected
        values = {
            "pairs": counted,
            "loss": -jax.nn.log_sigmoid(margin),
            "margin": margin,
            "accuracy": margin > 0,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
        }
        return {name: jnp.where(counted, value, 0.0).sum() for name, value in values.items()}

    return sums


def evaluate_preferences(
    measure: Callable[[Params, Pairs], dict[str, Any]], params: Params, batches: Iterable[Pairs]
) -> dict[str, float]:
    """The mean `loss` in nats, reward `margin`, `accuracy` and rewards over all pairs; and `pairs`.

    `accuracy` is the share of pairs whose chosen answer has the larger reward. `measure` is
    `preference_sums`, compiled.
    """
    totals: dict[str, Any] = {}
    for pairs in batches:
        sums = measure(params, pairs)
        totals = jax.tree.map(jnp.add, totals, sums) if totals else sums
    values = {name: float(total) for name, total in totals.items()}
    count = values.pop("pairs")
    return {name: value / max(count, 1) for name, value in values.items()} | {"pairs": count}


def _rewards(
    config: ModelConfig, preference: PreferenceConfig, compute: Compute
) -> Callable[..., Any]:
    likelihood = pair_likelihood(config, preference, compute)

    def rewards(
        params: Params, pairs: Pairs, rng: PRNGKeyArray | None
    ) -> tuple[Float[Array, "2 B"], Bool[Array, " B"]]:
        """In nats, of the chosen and the rejected answers; and which pairs have both."""
        if pairs.reference is None:
            raise ConfigError("the pairs have no reference; measure it first with pair_likelihood")
        counted = jnp.any(pairs.targets != IGNORE, axis=-1).all(axis=-1)
        likelier = likelihood(params, pairs, rng) - pairs.reference
        return preference.beta * jnp.where(counted[:, None], likelier, 0).T, counted

    return rewards
