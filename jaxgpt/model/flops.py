"""How much arithmetic a training step is."""

import math

from jaxgpt.config import ModelConfig
from jaxgpt.model.parameters import count_parameters
from jaxgpt.model.schema import dimensions, leaves
from jaxgpt.model.transformer import is_local


def active_parameters(model: ModelConfig) -> int:
    """The number of parameters that a token meets: all, but for the experts it does not go to."""
    experts = [math.prod(leaf.shape(model)) for leaf in leaves(model) if leaf.axes[0] == "X"]
    per_layer, number = sum(experts), model.experts.num_experts
    idle = number and per_layer // number * (number - model.experts.experts_per_token)
    return count_parameters(model) - model.num_layers * idle


def multiplied_parameters(model: ModelConfig) -> int:
    """The `active_parameters` but for tables that no product takes.

    They are that of positions, and that of tokens where the head is a matrix of its own.
    """
    length = model.context_length
    tables = length * (model.positions == "learned") + model.vocab_size * (not model.tie_head)
    return active_parameters(model) - tables * dimensions(model)["D"]


def flops_per_token(model: ModelConfig) -> int:
    """Floating-point operations of a training step for each token (Chowdhery et al. 2022).

    6 N + 12 L C T, as nanoGPT counts; in a layer with a window, that in place of T. N are the
    `multiplied_parameters`.
    """
    sizes, length = dimensions(model), model.context_length
    products = 6 * multiplied_parameters(model)
    near = sum(is_local(model, layer) for layer in range(model.num_layers))
    seen = (model.num_layers - near) * length + near * min(model.window, length)
    return products + 12 * sizes["C"] * seen
