"""Record what a PyTorch module computes, by jaxgpt's names: forward hooks, and one gradient."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional

from jaxgpt.config import ModelConfig
from jaxgpt.model.schema import leaves
from jaxgpt.parity.recordings.recording import Leaves, Recording, from_leaves
from jaxgpt.parity.recordings.torch_families import Layout, recognise, signs
from jaxgpt.parity.recordings.torch_file import blaming
from jaxgpt.parity.recordings.torch_outputs import every_logit
from jaxgpt.parity.recordings.torch_parameters import config_of, read_leaves
from jaxgpt.parity.trace import check_tokens

Note = Callable[[str, Tensor], None]

# Part of the model, activation, and whether it is what enters the part or what leaves it.
_INNER = (
    *((part, part, "leaves") for part in ("norm1", "attn.query_norm", "attn.key_norm")),
    ("attn.out", "attn.context", "enters"),
    *((part, part, "leaves") for part in ("attn.out", "post_norm1", "norm2")),
    *((part, part, "leaves") for part in ("mlp.router", "mlp.gate", "mlp.up")),
    ("mlp.down", "mlp.gelu", "enters"),
    *((part, part, "leaves") for part in ("mlp.down", "post_norm2")),
    ("mlp.out", "mlp.down", "leaves"),
)


def record_module(
    module: nn.Module,
    tokens: Int[np.ndarray, "B T"],
    name: str = "PyTorch",
    *,
    num_heads: int | None = None,
) -> Recording:
    """Run a module that maps tokens (B, T) to logits (B, T, V), or as `every_logit` says.

    It is run as it is, in its own dtype, device and mode, and twice, to see whether it does the
    same each time. A module of a family of `torch_families` gives every activation, its parameters
    and its config, for which `num_heads` stands in where no attribute tells it; another gives its
    logits and loss. No parameter and no gradient that it holds is changed.

    Raises CheckpointError if it raises or gives something else, ConfigError or DataError if the
    tokens do not fit.
    """
    layout = recognise(module)
    run = partial(_run, module, layout, tokens, name, num_heads)
    first = run()
    if _repeats(first, run()):
        return first
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        evaluated = run()
        repeats = _repeats(evaluated, run())
    finally:
        for part, training in modes:
            part.training = training
    if repeats:
        return replace(first, evaluated=evaluated)
    note = "computes something else each time, in evaluation mode too"
    return replace(first, notes=(*first.notes, note))


def _repeats(first: Recording, again: Recording) -> bool:
    """Whether two runs are one but for rounding, in which threads may differ from run to run.

    Dropout is far beyond: it takes away all of an element.
    """
    share = min(0.1, 2**13 * torch.finfo(getattr(torch, first.dtype)).eps)

    def alike(x: np.ndarray, y: np.ndarray) -> bool:
        largest = float(np.abs(x[np.isfinite(x)]).max(initial=0))
        return np.allclose(x, y, rtol=0, atol=share * largest, equal_nan=True)

    return all(alike(x, again.activations[name]) for name, x in first.activations.items())


def _run(
    module: nn.Module,
    layout: Layout | None,
    tokens: Int[np.ndarray, "B T"],
    name: str,
    num_heads: int | None,
) -> Recording:
    config, params = None, None
    notes = (f"is of no known family of names (of which {', '.join(signs())} would be a sign)",)
    if layout is not None:
        found = read_leaves(layout, lambda tensor: tensor)
        config = config_of(layout, found, num_heads)
        check_tokens(tokens, config, name, least=2)
        absent = dict(_without_effect(found, config))
        params = from_leaves(found | absent)
        notes = (f"has no {', '.join(absent)}",) if absent else ()
    seen: dict[str, Tensor] = {}
    # In-place operations may come after, so each is copied as it stands.
    with blaming(name), ExitStack() as stack:
        if layout is not None:
            for hook in _hooks(layout, lambda key, x: seen.update({key: _by_token(x, tokens)})):
                stack.enter_context(hook)
        device = next((p.device for p in module.parameters()), None)
        ids = torch.tensor(tokens, dtype=torch.int64, device=device)
        logits, how = every_logit(module, ids, name, config.vocab_size if config else None)
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        gradients = _gradients(module, layout, loss)
    seen["logits"] = logits.detach()
    coarsest = max((x.dtype for x in seen.values()), key=lambda dtype: torch.finfo(dtype).eps)
    return Recording(
        name,
        np.asarray(tokens),
        {key: x.to("cpu", torch.float32).numpy() for key, x in seen.items()},
        loss.item(),
        gradients,
        config,
        params,
        str(coarsest).removeprefix("torch."),
        (*notes, *how),
    )


def _gradients(module: nn.Module, layout: Layout | None, loss: Tensor) -> Leaves | None:
    if layout is None or not loss.requires_grad:
        return None
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    values = torch.autograd.grad(loss, trained, allow_unused=True)
    by_id = {id(p): value for p, value in zip(trained, values, strict=True)}

    def read(parameter: Tensor) -> Tensor:
        value = by_id.get(id(parameter))
        return torch.zeros_like(parameter) if value is None else value

    return read_leaves(layout, read, no_scale=0.0)


def _without_effect(found: Leaves, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """A scale without effect and a bias of zeros for each that a model of the config has."""
    lacking = (leaf for leaf in leaves(config) if leaf.path not in found)
    for leaf in sorted(lacking, key=lambda leaf: "norm" not in leaf.path):
        shape = (config.num_layers,) * leaf.stacked + leaf.shape(config)
        one = leaf.path.endswith("scale") and not config.norm_offset
        yield leaf.path, np.full(shape, one, np.float32)


def _by_token(x: Tensor, tokens: np.ndarray) -> Tensor:
    """A copy of `x`, or of what it has of each head, before or after T, side by side."""
    if x.ndim == 4 and x.shape[1] != tokens.shape[1]:
        x = x.transpose(1, 2)
    if x.ndim == 2:  # as of a router, to which all tokens are one row
        x = x.reshape(len(tokens), -1, x.shape[-1])
    return x.detach().clone().reshape(*x.shape[:2], -1)


def _hooks(layout: Layout, note: Note) -> Iterator[Any]:
    """The hooks that note the activations of a recognised module, each removed as it is left."""
    yield _hook(layout.block(0), partial(note, "embed"), "enters")
    for i in range(layout.num_layers):
        # Where no norm stands before the feed-forward network, the stream itself enters it.
        second = next(part for part in ("norm2", "mlp.gate", "mlp.up") if layout.get(part, i))
        for part, activation, side in (*_INNER, (second, "middle", "enters")):
            for target in layout.get(part, i)[:1]:
                yield _hook(target, partial(note, f"blocks.{i}.{activation}"), side)
        joined = _joining(partial(note, f"blocks.{i}.attn.qkv"), len(layout.get("attn.qkv", i)))
        for place, target in enumerate(layout.get("attn.qkv", i)):
            yield _hook(target, partial(joined, place), "leaves")
        yield _hook(layout.block(i), partial(note, f"blocks.{i}"), "leaves")
    yield _hook(layout.get("norm")[0], partial(note, "norm"), "leaves")


def _hook(module: nn.Module, note: Callable[[Tensor], None], side: str) -> Any:
    def first(values: Any) -> Tensor:
        values = values if isinstance(values, tuple) else (values,)
        return next(value for value in values if isinstance(value, Tensor))

    if side == "leaves":
        return module.register_forward_hook(lambda _, args, output: note(first(output)))
    return module.register_forward_pre_hook(
        lambda _, args, kwargs: note(first((*args, *kwargs.values()))), with_kwargs=True
    )


def _joining(note: Callable[[Tensor], None], count: int) -> Callable[[int, Tensor], None]:
    """Notes tensors that come one by one as one, side by side."""
    parts: dict[int, Tensor] = {}

    def join(place: int, part: Tensor) -> None:
        parts[place] = part
        if len(parts) == count:
            note(torch.cat([parts[i] for i in range(count)], dim=-1))
            parts.clear()

    return join
