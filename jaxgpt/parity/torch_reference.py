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

from jaxgpt.config import ModelConfig, Rope
from jaxgpt.errors import CheckpointError
from jaxgpt.model.nested import flatten, nest
from jaxgpt.model.schema import decays, dimensions
from jaxgpt.run_config import OptimizerConfig

_STACKED = ("blocks.", "heads.")


class RMSNorm(nn.Module):
    """Each vector over its root mean square, times the weight, or 1 more."""

    def __init__(self, width: int, config: ModelConfig):
        super().__init__()
        self.eps, self.offset = config.norm_epsilon, int(config.norm_offset)
        self.weight = nn.Parameter(torch.full((width,), 1.0 - self.offset))

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The normed vectors."""
        root = torch.sqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return x / root * (self.offset + self.weight)


def make_norm(config: ModelConfig, *, there: bool = True, width: int = 0) -> nn.Module:
    """The config's norm of vectors as wide as the model, or `width`; or nothing in its place."""
    width = width or config.embed_dim
    if not there:
        return nn.Identity()
    if config.norm == "rms":
        return RMSNorm(width, config)
    return nn.LayerNorm(width, eps=config.norm_epsilon)


class MultiHeadAttention(nn.Module):
    """Attention of all heads at once, from one product."""

    frequencies: Tensor

    def __init__(self, config: ModelConfig, layer: int = 0):
        super().__init__()
        self.num_heads, self.sizes = config.num_heads, dimensions(config)
        self.qkv = nn.Linear(config.embed_dim, self.sizes["E"], bias=config.qkv_bias)
        self.out = nn.Linear(self.sizes["C"], config.embed_dim, bias=config.out_bias)
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.attention_scale or None
        period = config.window_period
        self.window = 0 if period and layer % period == period - 1 else config.window
        normed, self.by_head = config.qk_norm != "none", config.qk_norm == "head"
        self.query_norm = make_norm(config, there=normed, width=self.sizes["Q"])
        self.key_norm = make_norm(config, there=normed, width=self.sizes["M"])
        self.rotary = config.positions == "rope"
        if self.rotary:
            frequencies, self.size = rotary(config.rope, self.sizes["K"], local=self.window > 0)
            self.register_buffer("frequencies", frequencies.float(), persistent=False)

    def split(self, x: Float[Tensor, "B T D"]) -> list[Float[Tensor, "B H T K"]]:
        """Queries, keys and values; those of several heads of queries are repeated."""
        heads, groups, width = (self.sizes[letter] for letter in "HGK")
        sections = [heads * width, groups * width, groups * width]
        parts = list(self.qkv(x).split(sections, dim=-1))
        norms = self.query_norm, self.key_norm
        if not self.by_head:
            parts[:2] = [norm(part) for norm, part in zip(norms, parts[:2], strict=True)]
        parts = [part.unflatten(-1, (-1, width)).transpose(1, 2) for part in parts]
        if self.by_head:
            parts[:2] = [norm(part) for norm, part in zip(norms, parts[:2], strict=True)]
        if self.rotary:
            parts[:2] = [self.turn(part) for part in parts[:2]]
        if groups == heads:
            return parts
        return [parts[0], *(part.repeat_interleave(heads // groups, dim=1) for part in parts[1:])]

    def turn(self, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
        """Each pair (i, i + K / 2), as a complex number, turned by its angle."""
        places = torch.arange(x.shape[2], device=x.device)
        angles = torch.outer(places, self.frequencies.float())
        cosines, sines = (self.size * wave.to(x.dtype) for wave in (angles.cos(), angles.sin()))
        real, imaginary = x.chunk(2, dim=-1)
        return torch.cat(
            [real * cosines - imaginary * sines, imaginary * cosines + real * sines], dim=-1
        )

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The context of each token."""
        queries, keys, values = self.split(x)
        scores = queries @ keys.mT
        root = math.sqrt(keys.shape[-1])
        scores = scores / root if self.scale is None else scores * self.scale
        scores = scores.masked_fill(unseen(x.shape[1], self.window), -torch.inf)
        context = self.dropout(torch.softmax(scores, dim=-1)) @ values
        return self.out(context.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """D -> F -> D, with an activation between, perhaps of a gate beside."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, hidden, bias = config.embed_dim, dimensions(config)["F"], config.mlp_bias
        self.gate = nn.Linear(width, hidden, bias=bias) if config.gate != "none" else None
        self.up = nn.Linear(width, hidden, bias=bias)
        form = "tanh" if config.gelu == "tanh" else "none"
        self.gelu = nn.SiLU() if config.gate == "silu" else nn.GELU(approximate=form)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Each token by itself."""
        if self.gate is None:
            return self.down(self.gelu(self.up(x)))
        return self.down(self.gelu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """The block, with norms before or after its two parts, or both."""

    def __init__(self, config: ModelConfig, layer: int = 0):
        super().__init__()
        before, after = config.norm_place != "after", config.norm_place != "before"
        self.norm1 = make_norm(config, there=before)
        self.attn = MultiHeadAttention(config, layer)
        self.post_norm1 = make_norm(config, there=after)
        self.norm2 = make_norm(config, there=before)
        self.mlp = FeedForward(config)
        self.post_norm2 = make_norm(config, there=after)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Attention, then the feed-forward network, each added to what came in."""
        x = x + self.dropout(self.post_norm1(self.attn(self.norm1(x))))
        return x + self.dropout(self.post_norm2(self.mlp(self.norm2(x))))


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
        self.scale = math.sqrt(config.embed_dim) if config.scale_embedding else None

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The sum, for each token."""
        x = self.tokens(tokens) if self.scale is None else self.tokens(tokens) * self.scale
        if self.positions is None:
            return x
        return x + self.positions(torch.arange(tokens.shape[1]))


class GPT(nn.Module):
    """A GPT (Radford et al. 2019), with PyTorch's own random start; see `from_params`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed = Embedding(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm = make_norm(config)
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


def unseen(length: int, window: int = 0) -> Tensor:
    """True where a token (row) may not look: at a later one, or from the window's width back."""
    back = torch.arange(length)[:, None] - torch.arange(length)
    return (back < 0) | (back >= window) if window else back < 0


def rotary(rope: Rope, width: int, *, local: bool) -> tuple[Float[Tensor, " K2"], float]:
    """Angle per position of each pair of numbers, and what cosines and sines are times."""
    base = rope.rope_local_base if local and rope.rope_local_base else rope.rope_base
    plain = base ** -(2 * torch.arange(width // 2, dtype=torch.float64) / width)
    divided, scaling = plain / rope.rope_factor, rope.rope_scaling
    if scaling == "none" or (local and not rope.rope_scale_local):
        return plain, 1.0
    if scaling == "linear":
        return divided, 1.0
    turns = rope.rope_original_context / (2 * math.pi) * plain  # in a context of training
    if scaling == "llama3":
        low, high = rope.rope_low_frequency, rope.rope_high_frequency
        mixed = torch.lerp(divided, plain, (turns - low) / (high - low))
        return torch.where(turns > high, plain, torch.where(turns < low, divided, mixed)), 1.0
    # YaRN's ramp is over the number of the pair, which at a whole number of turns is a fraction.
    ends = [
        math.log(rope.rope_original_context / (2 * math.pi * beta), base) * width / 2
        for beta in (rope.rope_beta_fast, rope.rope_beta_slow)
    ]
    low, high = (math.floor(ends[0]), math.ceil(ends[1])) if rope.rope_truncate else ends
    low, high = max(low, 0), min(high, width - 1)
    ramp = ((torch.arange(width // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
    size = rope.rope_attention_factor or 1 + math.log(rope.rope_factor) / 10
    return torch.lerp(plain, divided, ramp.double()), size


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
            if isinstance(module, nn.LayerNorm | RMSNorm) and name == "weight":
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
