"""The same model in PyTorch, written as a PyTorch reader would: what jaxgpt's numbers are held to.

Modules are named as jaxgpt's parameters are, so a leaf's path is its module's path. What differs:
PyTorch calls a norm's scale `weight`, keeps the layers apart, and stores linear maps as (out, in).
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError
from jaxgpt.model.nested import flatten, nest
from jaxgpt.model.schema import decays, dimensions
from jaxgpt.run_config import OptimizerConfig

_STACKED = ("blocks.", "heads.")


class MultiHeadAttention(nn.Module):
    """Attention of all heads at once, from one product."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads, self.sizes = config.num_heads, dimensions(config)
        self.qkv = nn.Linear(config.embed_dim, self.sizes["E"], bias=config.qkv_bias)
        self.out = nn.Linear(self.sizes["C"], config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)

    def split(self, x: Float[Tensor, "B T D"]) -> list[Float[Tensor, "B H T K"]]:
        """Queries, keys and values; those of several heads of queries are repeated."""
        heads, groups, width = (self.sizes[letter] for letter in "HGK")
        sections = [heads * width, groups * width, groups * width]
        parts = [
            part.unflatten(-1, (-1, width)).transpose(1, 2)
            for part in self.qkv(x).split(sections, dim=-1)
        ]
        if groups == heads:
            return parts
        return [parts[0], *(part.repeat_interleave(heads // groups, dim=1) for part in parts[1:])]

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The context of each token."""
        queries, keys, values = self.split(x)
        scores = queries @ keys.mT / math.sqrt(keys.shape[-1])
        scores = scores.masked_fill(future(x.shape[1]), -torch.inf)
        context = self.dropout(torch.softmax(scores, dim=-1)) @ values
        return self.out(context.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """D -> F -> D, with a GELU between."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, hidden = config.embed_dim, dimensions(config)["F"]
        self.up = nn.Linear(width, hidden)
        self.gelu = nn.GELU(approximate="tanh" if config.gelu == "tanh" else "none")
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Each token by itself."""
        return self.down(self.gelu(self.up(x)))


class Block(nn.Module):
    """The pre-norm block."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_epsilon)
        self.attn = MultiHeadAttention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_epsilon)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Attention, then the feed-forward network, each added to what came in."""
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Embedding(nn.Module):
    """The token's vector plus the position's."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.embed_dim)
        self.positions = None
        if config.positions == "learned":
            self.positions = nn.Embedding(config.context_length, config.embed_dim)
        elif config.positions == "sinusoidal":
            table = sinusoidal_positions(config.context_length, config.embed_dim)
            self.positions = nn.Embedding.from_pretrained(table, freeze=True)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The sum, for each token."""
        if self.positions is None:
            return self.tokens(tokens)
        return self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))


class GPT(nn.Module):
    """A GPT (Radford et al. 2019), with PyTorch's own random start; see `from_params`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed = Embedding(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_epsilon)
        self.head = None
        if not config.tie_head:
            self.head = nn.Linear(config.embed_dim, config.vocab_size, bias=False)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """The logits of the token that follows each token."""
        x = self.dropout(self.embed(tokens))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x @ self.embed.tokens.weight.T if self.head is None else self.head(x)


def future(length: int) -> Tensor:
    """True where a token (row) would look at a later one (column)."""
    return torch.ones(length, length, dtype=torch.bool).triu(diagonal=1)


def sinusoidal_positions(length: int, width: int) -> Float[Tensor, "T D"]:
    """The fixed table of Vaswani et al. 2017: sines in even columns, cosines in odd ones."""
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    table = torch.empty(length, width)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table


def from_params(config: ModelConfig, params: dict[str, Any]) -> GPT:
    """The PyTorch model with jaxgpt's parameters; raises CheckpointError if they do not fit."""
    model = GPT(config)
    load_params(model, params)
    return model


def load_params(model: nn.Module, params: dict[str, Any]) -> None:
    """Copy jaxgpt's nested dict of arrays into `model`, a module of this file.

    Raises CheckpointError if a leaf is missing, unknown, or of another shape; nothing is then
    copied.
    """
    leaves = _leaves(model)
    arrays = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(params).items()}
    if odd := leaves.keys() ^ arrays.keys():
        names = ", ".join(sorted(odd))
        raise CheckpointError(f"PyTorch's model and the parameters do not both have {names}")
    for path, parameters in leaves.items():
        shape, wanted = arrays[path].shape, tuple(_join(path, parameters).shape)
        if shape != wanted:
            raise CheckpointError(f"{path} has shape {shape}; it must be {wanted}")
    with torch.no_grad():
        for path, parameters in leaves.items():
            layers = arrays[path] if path.startswith(_STACKED) else arrays[path][None]
            for parameter, array in zip(parameters, layers, strict=True):
                _transpose(path, parameter).copy_(torch.tensor(array))


def to_params(model: nn.Module, *, grads: bool = False) -> dict[str, Any]:
    """The parameters of `model` as jaxgpt's nested dict, of NumPy arrays; blocks stacked on L.

    With `grads`, the gradients instead; 0 where `backward` left none.
    """
    leaves = {}
    for path, tensors in _leaves(model).items():
        if grads:
            tensors = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
        leaves[path] = _join(path, tensors).detach().numpy().copy()
    return nest(leaves)


def configure_adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW at the peak learning rate, decaying the leaves that jaxgpt decays.

    Those are the matrices of the schema, or all of them.
    """
    decayed, spared = [], []
    for path, parameters in _leaves(model).items():
        decay = decays(path.split(".")) or config.weight_decay_on == "all"
        (decayed if decay else spared).extend(parameters)
    return torch.optim.AdamW(
        [{"params": decayed}, {"params": spared, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


def _leaves(model: nn.Module) -> dict[str, list[Tensor]]:
    """Trainable parameters by their path in jaxgpt's dict: one tensor, or one for each layer."""
    leaves: dict[str, list[Tensor]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            path = [part for part in prefix.split(".") if part and not part.isdecimal()]
            if isinstance(module, nn.LayerNorm) and name == "weight":
                name = "scale"
            if not isinstance(module, nn.Embedding):
                path.append(name)
            if parameter.requires_grad:
                leaves.setdefault(".".join(path), []).append(parameter)
    return leaves


def _join(path: str, tensors: list[Tensor]) -> Tensor:
    """One tensor in jaxgpt's layout, of the tensors that stand at `path`."""
    layers = [_transpose(path, tensor) for tensor in tensors]
    return torch.stack(layers) if path.startswith(_STACKED) else layers[0]


def _transpose(path: str, tensor: Tensor) -> Tensor:
    """A view that turns PyTorch's (out, in) into jaxgpt's (in, out), and leaves the rest."""
    return tensor.T if path.endswith("weight") else tensor
