"""How likely a model finds each row of a batch, where a loss over the whole batch is not enough."""

from collections.abc import Callable

from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgpt.compute import Compute
from jaxgpt.config import ModelConfig
from jaxgpt.model.layers import Params
from jaxgpt.training.loss import AS_IT_IS, head_losses, head_table, hidden

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
        nats, count = head_losses(x, head_table(config, params), targets)
        return -nats, count

    return measure
