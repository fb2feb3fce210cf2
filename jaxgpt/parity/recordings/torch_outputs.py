"""What PyTorch's GPTs return -> the logits of every token."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jaxgpt.errors import CheckpointError

_TARGETS = ("targets", "labels", "target", "y")


def every_logit(
    module: nn.Module, ids: Tensor, name: str, vocab_size: int | None
) -> tuple[Tensor, tuple[str, ...]]:
    """The logits (B, T, V) that `module` gives for tokens (B, T), and how, where it took more runs.

    It may return them, flat (B T, V) or not, an output with `.logits`, or a tuple that holds them,
    such as beside the loss. One that needs targets is given them. One that gives the last token's
    logits alone is run with targets, if it takes any, as nanoGPT then gives all; or else on every
    beginning of the tokens, the whole of them last. Raises CheckpointError if it returns something
    else.
    """
    parameters = inspect.signature(module.forward).parameters
    targets = next((item for item in parameters.values() if item.name in _TARGETS), None)
    needed = targets is not None and targets.default is inspect.Parameter.empty

    def run(ids: Tensor, *, given: bool = needed) -> Tensor:
        more = {targets.name: ids} if targets is not None and given else {}
        logits = _logits(module(ids, **more), name)
        flat = logits.ndim == 2 and len(logits) == ids.numel()
        return logits.reshape(*ids.shape, -1) if flat else logits

    logits, notes = run(ids), ()
    if targets is not None and needed:
        notes = (f"was run with {targets.name}, which it needs",)
    if ids.shape[1] > 1 and _is_last(logits, ids):
        if targets is not None and not needed:
            logits = run(ids, given=True)
            notes = (f"gives all logits only with {targets.name}, so it was run with those",)
        if _is_last(logits, ids):
            ends = (run(ids[:, :end]) for end in range(1, ids.shape[1] + 1))
            logits = torch.cat([logits.reshape(len(ids), 1, -1) for logits in ends], dim=1)
            notes = ("gives the last token's logits, so it was run on each beginning",)
    want = (*ids.shape, vocab_size or logits.shape[-1])
    if logits.shape != want or not logits.is_floating_point():
        raise CheckpointError(
            f"{name} returns {logits.dtype} of shape {tuple(logits.shape)}; it must be logits of "
            f"shape {want}, for every token"
        )
    return logits, notes


def _logits(output: Any, name: str) -> Tensor:
    logits = output.get("logits") if isinstance(output, Mapping) else output
    logits = getattr(logits, "logits", logits)
    if isinstance(logits, tuple):
        tensors = (part for part in logits if isinstance(part, Tensor) and part.ndim > 1)
        logits = next(tensors, None)
    if not isinstance(logits, Tensor):
        raise CheckpointError(
            f"{name} returns a {type(output).__name__}; it must be a tensor of logits (B, T, V), "
            "or a tuple that holds one"
        )
    return logits


def _is_last(logits: Tensor, ids: Tensor) -> bool:
    return logits.is_floating_point() and logits.shape[:-1] in ((len(ids),), (len(ids), 1))
