"""A recognised PyTorch module's parameters by jaxgpt's paths, and the config they belong to."""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError
from jaxgpt.model.embedding import sinusoidal_positions
from jaxgpt.parity.recordings.recording import Leaves
from jaxgpt.parity.recordings.torch_families import Layout

_PATHS = {
    **{"norm1": "norm1", "qkv": "attn.qkv", "out": "attn.out"},
    **{"norm2": "norm2", "up": "mlp.up", "down": "mlp.down"},
}
_HEADS = ("num_heads", "n_head", "n_heads", "num_attention_heads")


def read_leaves(layout: Layout, read: Callable[[Tensor], Tensor], no_scale: float = 1.0) -> Leaves:
    """What `read` gives for each parameter, by jaxgpt's path and in its layout, in float32.

    With the identity these are the parameters. A bias or a norm's scale that no layer has is left
    out, and one that some have is 0, or `no_scale`, in the others.
    """
    found = {"embed.tokens": _host(read(_table(layout.get("tokens")[0])))}
    if not has_sinusoids(layout):
        found["embed.positions"] = _host(read(_table(layout.get("positions")[0])))
    for role, path in _PATHS.items():
        layers = [dict(_maps(layout.get(role, i), read)) for i in range(layout.num_layers)]
        for name in ("weight", "scale", "bias"):
            if rows := [layer.get(name) for layer in layers if name in layer]:
                absent = np.full_like(rows[0], no_scale if name == "scale" else 0)
                found[f"blocks.{path}.{name}"] = np.stack(
                    [layer.get(name, absent) for layer in layers]
                )
    found |= {f"norm.{name}": x for name, x in _maps(layout.get("norm"), read)}
    if not is_tied(layout):
        found["head.weight"] = dict(_maps(layout.get("head"), read))["weight"]
    return found


def is_tied(layout: Layout) -> bool:
    """Whether the head is the token table."""
    heads, (table,) = layout.get("head"), layout.get("tokens")
    return not heads or _table(heads[0]) is _table(table)


def has_sinusoids(layout: Layout) -> bool:
    """Whether the positions are no parameters: none at all, or the fixed sines."""
    tables = [_table(module) for module in layout.get("positions")]
    if not tables or tables[0].requires_grad or tables[0].shape[1] % 2:
        return not tables
    return bool(np.allclose(_host(tables[0]), sinusoidal_positions(*tables[0].shape), atol=1e-3))


def _maps(
    modules: list[nn.Module], read: Callable[[Tensor], Tensor]
) -> Iterator[tuple[str, np.ndarray]]:
    """The weight or scale, and the bias, of a norm or of linear maps side by side."""
    for names in (("weight", "scale"), ("bias", "shift")):
        tensors = [_first(module, *names) for module in modules]
        parts = [
            # Conv1D of the library transformers keeps (in, out) already.
            _host(read(tensor).mT if _is_turned(module, tensor) else read(tensor))
            for module, tensor in zip(modules, tensors, strict=True)
            if tensor is not None
        ]
        if len(parts) == len(modules):
            is_scale = names[0] == "weight" and parts[0].ndim == 1
            yield "scale" if is_scale else names[0], np.concatenate(parts, axis=-1)


def _is_turned(module: nn.Module, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and isinstance(module, nn.Linear)


def _first(module: nn.Module, *names: str) -> Tensor | None:
    found = (getattr(module, name, None) for name in names)
    return next((value for value in found if isinstance(value, Tensor)), None)


def _table(module: nn.Module) -> Tensor:
    weight = _first(module, "weight")
    if weight is None or weight.ndim != 2:
        raise CheckpointError(f"a {type(module).__name__} has no weight, where a table should be")
    return weight


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy().copy()


def config_of(layout: Layout, leaves: Leaves, num_heads: int | None) -> ModelConfig:
    """The config as far as modules show it; `num_heads` stands in where none has an attribute.

    Raises CheckpointError if neither tells the number of heads, or it does not divide the width.
    """
    vocab_size, width = leaves["embed.tokens"].shape
    tables = layout.get("positions")
    heads = _heads(layout) or num_heads
    if heads is None or width % heads:
        what = "nothing tells the number of heads" if heads is None else f"{heads} heads"
        raise CheckpointError(
            f"{what}, where the width is {width}; give the module an attribute {_HEADS[0]} that "
            "divides it"
        )
    epsilon = getattr(layout.get("norm1", 0)[0], "eps", None)
    return ModelConfig(
        vocab_size=vocab_size,
        context_length=len(_table(tables[0])) if tables else ModelConfig.context_length,
        num_layers=layout.num_layers,
        num_heads=heads,
        embed_dim=width,
        qkv_bias="blocks.attn.qkv.bias" in leaves,
        tie_head=is_tied(layout),
        positions="sinusoidal" if has_sinusoids(layout) else "learned",
        gelu=_gelu(layout.block(0)),
        norm_epsilon=epsilon if isinstance(epsilon, float) and epsilon > 0 else 1e-5,
    )


def _heads(layout: Layout) -> int | None:
    # The nearest to the attention counts: the config of what is around may be about more.
    block = layout.block(0)
    for module in (*reversed(list(block.modules())), layout.root):
        for owner in (module, getattr(module, "config", None)):
            for name in _HEADS:
                if isinstance(value := getattr(owner, name, None), int) and value > 0:
                    return value
    return None


def _gelu(block: nn.Module) -> Literal["tanh", "erf"]:
    forms = [part.approximate for part in block.modules() if isinstance(part, nn.GELU)]
    return "erf" if forms == ["none"] else "tanh"
