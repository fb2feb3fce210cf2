"""How much arithmetic a training step is."""

from jaxgpt.config import ModelConfig
from jaxgpt.model.parameters import count_parameters
from jaxgpt.model.schema import dimensions


def flops_per_token(model: ModelConfig) -> int:
    """Floating-point operations of a training step for each token (Chowdhery et al. 2022).

    6 (N - positions) + 12 L C T, as nanoGPT counts. N counts a tied head once; the position table
    takes no part in a product.
    """
    sizes, length = dimensions(model), model.context_length
    positions = length * sizes["D"] if model.positions == "learned" else 0
    products = 6 * (count_parameters(model) - positions)
    return products + 12 * model.num_layers * sizes["C"] * length
