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

    It may return them, an output with `.logits`, or a tuple that they begin, such as with the loss.
    One that gives those of the last token alone is run with targets, if it takes any, as nanoGPT
    then gives all; or else on every beginning of the tokens, the whole of them last.

    Raises CheckpointError if it returns something else.
    """
    logits, notes = _logits(module(ids), name), ()
    if ids.shape[1] > 1 and _is_last(logits, ids):
        given = next((key for key in _parameters(module) if key in _TARGETS), None)
        if given is not None:
            logits = _logits(module(ids, **{given: ids}), name)
            notes = (f"gives all logits only with {given}, so it was run with those",)
        else:
            ends = (_logits(module(ids[:, :end]), name) for end in range(1, ids.shape[1] + 1))
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
    if isinstance(logits, tuple) and logits:
        logits = logits[0]
    if not isinstance(logits, Tensor):
        raise CheckpointError(
            f"{name} returns a {type(output).__name__}; it must be a tensor of logits (B, T, V), "
            "or a tuple that begins with one"
        )
    return logits


def _is_last(logits: Tensor, ids: Tensor) -> bool:
    return logits.is_floating_point() and logits.shape[:-1] in ((len(ids),), (len(ids), 1))


def _parameters(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)
