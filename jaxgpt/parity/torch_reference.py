"""The same model in PyTorch, written as a PyTorch reader would: what jaxgpt's numbers are held to.

Modules are named as jaxgpt's parameters are, so a leaf's path is its module's path. What differs:
PyTorch calls a norm's scale `weight`, keeps the layers apart, and stores linear maps as (out, in).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jaxgpt.config import ModelConfig, OptimizerConfig
from jaxgpt.errors import CheckpointError
from jaxgpt.model.schema import decays, dimensions
from jaxgpt.parity.torch_attention import MultiHeadAttention

Path = tuple[str, ...]
_STACKED = ("blocks", "heads")


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
        if config.positions == "learned":
            self.positions = nn.Embedding(config.context_length, config.embed_dim)
        else:
            table = sinusoidal_positions(config.context_length, config.embed_dim)
            self.positions = nn.Embedding.from_pretrained(table, freeze=True)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The sum, for each token."""
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
    leaves, arrays = _leaves(model), dict(_flatten(params))
    if odd := leaves.keys() ^ arrays.keys():
        names = ", ".join(sorted(".".join(path) for path in odd))
        raise CheckpointError(f"PyTorch's model and the parameters do not both have {names}")
    for path, parameters in leaves.items():
        shape, wanted = arrays[path].shape, tuple(_join(path, parameters).shape)
        if shape != wanted:
            raise CheckpointError(f"{'.'.join(path)} has shape {shape}; it must be {wanted}")
    with torch.no_grad():
        for path, parameters in leaves.items():
            layers = arrays[path] if path[0] in _STACKED else arrays[path][None]
            for parameter, array in zip(parameters, layers, strict=True):
                _transpose(path, parameter).copy_(torch.tensor(array))


def to_params(model: nn.Module, *, grads: bool = False) -> dict[str, Any]:
    """The parameters of `model` as jaxgpt's nested dict, of NumPy arrays; blocks stacked on L.

    With `grads`, the gradients instead; 0 where `backward` left none.
    """
    params: dict[str, Any] = {}
    for path, tensors in _leaves(model).items():
        if grads:
            tensors = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
        node = params
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = _join(path, tensors).detach().numpy().copy()
    return params


def configure_adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW at the peak learning rate, decaying the leaves that jaxgpt decays.

    Those are the matrices of the schema, or all of them.
    """
    decayed, spared = [], []
    for path, parameters in _leaves(model).items():
        (decayed if decays(path) or config.weight_decay_on == "all" else spared).extend(parameters)
    return torch.optim.AdamW(
        [{"params": decayed}, {"params": spared, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


def _leaves(model: nn.Module) -> dict[Path, list[Tensor]]:
    """Trainable parameters by their path in jaxgpt's dict: one tensor, or one for each layer."""
    leaves: dict[Path, list[Tensor]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            path = tuple(part for part in prefix.split(".") if part and not part.isdecimal())
            if isinstance(module, nn.LayerNorm) and name == "weight":
                name = "scale"
            if not isinstance(module, nn.Embedding):
                path += (name,)
            if parameter.requires_grad:
                leaves.setdefault(path, []).append(parameter)
    return leaves


def _flatten(params: dict[str, Any], prefix: Path = ()) -> Iterator[tuple[Path, np.ndarray]]:
    for name, value in params.items():
        if isinstance(value, dict):
            yield from _flatten(value, (*prefix, name))
        else:
            yield (*prefix, name), np.asarray(value, np.float32)


def _join(path: Path, tensors: list[Tensor]) -> Tensor:
    """One tensor in jaxgpt's layout, of the tensors that stand at `path`."""
    layers = [_transpose(path, tensor) for tensor in tensors]
    return torch.stack(layers) if path[0] in _STACKED else layers[0]


def _transpose(path: Path, tensor: Tensor) -> Tensor:
    """A view that turns PyTorch's (out, in) into jaxgpt's (in, out), and leaves the rest."""
    return tensor.T if path[-1] == "weight" else tensor
