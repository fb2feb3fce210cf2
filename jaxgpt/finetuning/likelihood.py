"""How likely a model finds each row of a batch, where a loss over the whole batch is not enough."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgpt.compute import Compute
from jaxgpt.config import ModelConfig
from jaxgpt.data.batches import IGNORE
from jaxgpt.model.layers import Params
from jaxgpt.training.loss import AS_IT_IS, cross_entropy, head_table, hidden

_MOST_LOGITS = 1 << 25  # in memory at once

Likelihood = tuple[Float[Array, " B"], Int[Array, " B"]]
"""Each row's summed log-probability in nats, and the number of targets that it sums over."""


def row_likelihood(config: ModelConfig, compute: Compute = AS_IT_IS) -> Callable[..., Likelihood]:
    """A function of parameters, inputs, targets, each (B, T), and a random key for dropout or None.

    It gives the log-probability of each row's targets, but for those of -100. Parameters are cast
    as in `next_token_loss`, and so are the gradients.
    """

    def measure(
        params: Params,
        inputs: Int[Array, "B T"],
        targets: Int[Array, "B T"],
        rng: PRNGKeyArray | None = None,
    ) -> Likelihood:
        x = hidden(config, params, inputs, compute, rng=rng)
        nats = head_likelihood(x, head_table(config, params), targets)
        return nats, (targets != IGNORE).sum(axis=-1, dtype=jnp.int32)

    return measure


def head_likelihood(
    x: Float[Array, "B T D"], table: Float[Array, "V D"], targets: Int[Array, "B T"]
) -> Float[Array, " B"]:
    """The log-probability of each row's targets under the logits `x @ table.T`, in nats, summed.

    The tokens go through the head in chunks of up to 2^25 logits, which the backward pass computes
    again instead of keeping. Logits and the table's gradient are in float32.
    """
    (rows, length, width), vocab_size = x.shape, len(table)
    span = max(1, min(length, _MOST_LOGITS // (rows * vocab_size)))

    @jax.checkpoint
    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        x, targets = chunk
        flat, weight = x.reshape(-1, width), table.astype(x.dtype)
        logits = jnp.matmul(flat, weight.T, preferred_element_type=jnp.float32)
        nats, _ = jax.vmap(cross_entropy)(logits.reshape(rows, span, -1), targets)
        return total - nats, None

    missing = -length % span
    x = jnp.pad(x, [(0, 0), (0, missing), (0, 0)]).reshape(rows, -1, span, width)
    targets = jnp.pad(targets, [(0, 0), (0, missing)], constant_values=IGNORE)
    chunks = x.swapaxes(0, 1), targets.reshape(rows, -1, span).swapaxes(0, 1)
    return jax.lax.scan(add, jnp.zeros(rows, jnp.float32), chunks)[0]
