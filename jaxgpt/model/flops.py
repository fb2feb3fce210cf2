"""How much arithmetic a training step is."""

from jaxgpt.config import ModelConfig
from jaxgpt.model.gpt import count_parameters


def flops_per_token(model: ModelConfig) -> int:
    """nanoGPT's count of a training step: 6 (N - positions) + 12 L D T (Chowdhery et al. 2022).

    N counts a tied head once; the position table takes no part in a product.
    """
    width, length = model.embed_dim, model.context_length
    positions = length * width if model.positions == "learned" else 0
    products = 6 * (count_parameters(model) - positions)
    return products + 12 * model.num_layers * width * length
