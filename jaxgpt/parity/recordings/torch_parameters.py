"""A recognised PyTorch module's parameters by jaxgpt's paths, and the config they belong to."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jaxgpt.config import Experts, ModelConfig
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.families.known import read_family
from jaxgpt.model.embedding import sinusoidal_positions
from jaxgpt.parity.recordings.recording import Leaves
from jaxgpt.parity.recordings.torch_families import Layout

_HEADS = ("num_heads", "n_head", "n_heads", "num_attention_heads")
_EPSILONS = ("eps", "variance_epsilon")


def read_leaves(layout: Layout, read: Callable[[Tensor], Tensor], no_scale: float = 1.0) -> Leaves:
    """What `read` gives for each parameter, by jaxgpt's path and in its layout, in float32.

    With the identity these are the parameters. A bias or a norm's scale that no layer has is left
    out, and one that some have is 0, or `no_scale`, in the others.
    """
    found = {"embed.tokens": _host(read(_table(layout.get("embed.tokens")[0])))}
    if not has_sinusoids(layout):
        found["embed.positions"] = _host(read(_table(layout.get("embed.positions")[0])))
    for part in layout.inside:
        layers = [
            dict(_in_block(part, layout.get(part, i), read)) for i in range(layout.num_layers)
        ]
        for path in dict.fromkeys(path for layer in layers for path in layer):
            known = next(layer[path] for layer in layers if path in layer)
            absent = np.full_like(known, no_scale if path.endswith("scale") else 0)
            found[f"blocks.{path}"] = np.stack([layer.get(path, absent) for layer in layers])
    found |= {f"norm.{name}": x for name, x in _maps(layout.get("norm"), read)}
    if not is_tied(layout):
        found["head.weight"] = dict(_maps(layout.get("head"), read))["weight"]
    return found


def _in_block(
    part: str, modules: list[nn.Module], read: Callable[[Tensor], Tensor]
) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves of a part of one block, by path."""
    module: Any = modules[0]
    if part == "attn.sinks":
        yield part, _host(read(module.sinks))
    elif part == "mlp.experts":
        turned = not hasattr(module, "down_proj_bias")  # of gpt-oss gate and up stand in turn
        for kind, end in (("weight", ""), ("bias", "_bias"))[: 1 if turned else 2]:
            tensors = (getattr(module, f"{name}_proj{end}") for name in ("gate_up", "down"))
            both, down = (read(x).mT if turned else read(x) for x in tensors)
            gate, up = both.chunk(2, dim=-1) if turned else (both[..., ::2], both[..., 1::2])
            for name, x in (("gate", gate), ("up", up), ("down", down)):
                yield f"mlp.{name}.{kind}", _host(x)
    elif part != "mlp.out":
        for name, array in _maps(modules, read):
            yield f"{part}.{name}", array


def is_tied(layout: Layout) -> bool:
    """Whether the head is the token table."""
    heads, (table,) = layout.get("head"), layout.get("embed.tokens")
    return not heads or _table(heads[0]) is _table(table)


def has_sinusoids(layout: Layout) -> bool:
    """Whether the positions are no parameters: none at all, or the fixed sines."""
    tables = [_table(module) for module in layout.get("embed.positions")]
    if not tables or tables[0].requires_grad or tables[0].shape[1] % 2:
        return not tables
    return bool(np.allclose(_host(tables[0]), sinusoidal_positions(*tables[0].shape), atol=1e-3))


def _maps(
    modules: list[nn.Module], read: Callable[[Tensor], Tensor]
) -> Iterator[tuple[str, np.ndarray]]:
    """The weight or scale, and the bias, of a norm or of linear maps side by side."""
    for names in (("weight", "scale"), ("bias", "shift")):
        tensors = [_first(module, *names) for module in modules]
        parts = []
        for module, tensor in zip(modules, tensors, strict=True):
            # Conv1D of the library transformers keeps (in, out) already.
            linear = isinstance(module, nn.Linear) or type(module).__name__.endswith("Router")
            if tensor is not None:
                parts.append(
                    _host(read(tensor).mT if linear and tensor.ndim == 2 else read(tensor))
                )
        if len(parts) == len(modules):
            is_scale = names[0] == "weight" and parts[0].ndim == 1
            yield "scale" if is_scale else names[0], np.concatenate(parts, axis=-1)


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

    That of a module of transformers is what its own config says. Raises CheckpointError if nothing
    tells the number of heads, or it does not divide the width.
    """
    biases = {
        f"{name}_bias": f"blocks.{part}.bias" in leaves
        for name, part in (("qkv", "attn.qkv"), ("out", "attn.out"), ("mlp", "mlp.up"))
    }
    said = _said(layout)
    if said is not None:
        return replace(said, tie_head=is_tied(layout), **biases)
    vocab_size, width = leaves["embed.tokens"].shape
    columns, joined = (leaves[f"blocks.attn.{name}.weight"].shape for name in ("qkv", "out"))
    hidden = leaves["blocks.mlp.up.weight"].shape[-1]
    tables = layout.get("embed.positions")
    heads = _heads(layout) or num_heads
    if heads is None or joined[-2] % heads:
        what = "nothing tells the number of heads" if heads is None else f"{heads} heads"
        raise CheckpointError(
            f"{what}, where the width is {joined[-2]}; give the module an attribute {_HEADS[0]} "
            "that divides it"
        )
    head_dim = joined[-2] // heads
    groups = (columns[-1] // head_dim - heads) // 2
    norms = *layout.get("norm1", 0), *layout.get("post_norm1", 0)
    epsilons = [getattr(norm, name, None) for norm in norms for name in _EPSILONS]
    form: dict[str, Any] = {"positions": "sinusoidal" if has_sinusoids(layout) else "learned"}
    gelus = [x.approximate for x in layout.block(0).modules() if isinstance(x, nn.GELU)]
    form |= {"qkv_bias": biases["qkv_bias"], "gelu": "erf" if gelus == ["none"] else "tanh"}
    if "blocks.mlp.gate.weight" in leaves:
        form |= biases | _form(layout, leaves, head_dim)
    return ModelConfig(
        vocab_size=vocab_size,
        context_length=len(_table(tables[0])) if tables else ModelConfig.context_length,
        num_layers=layout.num_layers,
        num_heads=heads,
        embed_dim=width,
        num_kv_heads=0 if groups == heads else groups,
        head_dim=0 if joined[-2] == width else head_dim,
        hidden_dim=0 if hidden == 4 * width else hidden,
        tie_head=is_tied(layout),
        norm_epsilon=next((x for x in epsilons if isinstance(x, float) and x > 0), 1e-5),
        **form,
    )


def _said(layout: Layout) -> ModelConfig | None:
    """What a module of transformers with a gate says of itself, where jaxgpt has such models."""
    config: Any = getattr(layout.root, "config", None)
    if not {"mlp.gate", "mlp.router"} & {*layout.inside} or not hasattr(config, "to_dict"):
        return None
    try:
        return read_family(config.to_dict())[1]
    except ConfigError:
        return None


def _form(layout: Layout, leaves: Leaves, head_dim: int) -> dict[str, Any]:
    """The settings that parameters show of a block with a gate, as those of today have."""
    after, before = (f"blocks.{name}norm1.scale" in leaves for name in ("post_", ""))
    scale = leaves.get("blocks.attn.query_norm.scale")
    normed = "none" if scale is None else "head" if scale.shape[-1] == head_dim else "width"
    kinds = [type(part).__name__.lower() for part in layout.block(0).modules()]
    router = next(iter(layout.get("mlp.router", 0)), None)
    experts = Experts()
    if router is not None:
        experts = Experts(
            num_experts=leaves["blocks.mlp.router.weight"].shape[-1],
            experts_per_token=getattr(router, "top_k", 1),
            router_bias="blocks.mlp.router.bias" in leaves,
        )
    sinks = "blocks.attn.sinks" in leaves
    return {
        "experts": experts,
        "sinks": sinks,
        "norm": "layer" if "norm.bias" in leaves else "rms",
        "norm_place": ("both" if before else "after") if after else "before",
        "qk_norm": normed,
        "positions": "learned" if layout.get("embed.positions") else "rope",
        "gate": "clamped"
        if sinks
        else ("gelu" if any("gelu" in kind for kind in kinds) else "silu"),
    }


def _heads(layout: Layout) -> int | None:
    # The nearest to the attention counts: the config of what is around may be about more.
    block = layout.block(0)
    for module in (*reversed(list(block.modules())), layout.root):
        for owner in (module, getattr(module, "config", None)):
            for name in _HEADS:
                if isinstance(value := getattr(owner, name, None), int) and value > 0:
                    return value
    return None
