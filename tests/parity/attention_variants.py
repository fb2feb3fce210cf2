"""The attention variants before the last in PyTorch, named as in `jaxgpt.model.attention`."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jaxgpt.config import ModelConfig
from jaxgpt.model.schema import dimensions
from jaxgpt.parity.torch_reference import unseen


def simplified_attention(x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """Variant 1: each vector becomes the mean of all, weighted by the softmax of dot products."""
    return torch.softmax(x @ x.mT, dim=-1) @ x


class SelfAttention(nn.Module):
    """Variant 2: trainable queries, keys and values; (B, T, D) -> (B, T, K)."""

    def __init__(self, width: int, head_dim: int, *, bias: bool = True):
        super().__init__()
        self.query = nn.Linear(width, head_dim, bias=bias)
        self.key = nn.Linear(width, head_dim, bias=bias)
        self.value = nn.Linear(width, head_dim, bias=bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T K"]:
        """The context of each token."""
        queries, keys, values = self.query(x), self.key(x), self.value(x)
        scores = queries @ keys.mT / math.sqrt(keys.shape[-1])
        return torch.softmax(scores, dim=-1) @ values


class CausalAttention(SelfAttention):
    """Variant 3: the same without the future, and with dropout on the weights."""

    def __init__(self, width: int, head_dim: int, *, bias: bool = True, dropout: float = 0.0):
        super().__init__(width, head_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T K"]:
        """The context of each token."""
        queries, keys, values = self.query(x), self.key(x), self.value(x)
        scores = queries @ keys.mT / math.sqrt(keys.shape[-1])
        scores = scores.masked_fill(unseen(x.shape[1]), -torch.inf)
        return self.dropout(torch.softmax(scores, dim=-1)) @ values


class MultiHeadAttentionByHeads(nn.Module):
    """Variant 4a: several causal attentions side by side, and a projection."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        sizes, width = dimensions(config), config.embed_dim
        self.heads = nn.ModuleList(
            CausalAttention(width, sizes["K"], bias=config.qkv_bias, dropout=config.dropout)
            for _ in range(config.num_heads)
        )
        self.out = nn.Linear(sizes["C"], width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The context of each token."""
        return self.out(torch.cat([head(x) for head in self.heads], dim=-1))
