"""A plan as a table to read, and what to change where it does not fit."""

import math
import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from jaxgpt.config import TrainConfig
from jaxgpt.errors import ConfigError, brief
from jaxgpt.training.plan import Plan

_UNITS = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "TiB": 2**40, "GiB": 2**30, "MiB": 2**20}


def parse_memory(text: str) -> int:
    """Bytes in a size such as 80GB or 16 GiB; raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    scale = {unit.lower(): scale for unit, scale in _UNITS.items()}
    size = float(match[1]) * scale.get(match[2].lower(), 0) if match else 0
    if not 1 <= size <= 1e18:
        raise ConfigError(f"memory is {brief(text)}; write a number with its unit, such as 80GB")
    return int(size)


Peak = Callable[[TrainConfig], int]
"""The most bytes at once on each device in a step of a config."""


def table(config: TrainConfig, plan: Plan, devices: int, compiled: int | None = None) -> str:
    """The plan in lines: what is held throughout, what comes and goes, and the most at once.

    `compiled` is XLA's figure of that, where the step was compiled.
    """
    model, texts = config.model, f"{config.gradient_accumulation} x {plan.micro_batch} windows"
    head = f"last norm and {'tied ' if model.tie_head else ''}head"
    counts, sizes = plan.parameters, plan.parameter_bytes
    rows = [
        ("parameters", f"{sum(counts.values()):,}", _size(sum(sizes.values()))),
        ("  embeddings", f"{counts['embeddings']:,}", _size(sizes["embeddings"])),
        ("  blocks", f"{counts['blocks']:,}", _size(sizes["blocks"])),
        (f"  {head}", f"{counts['head']:,}", _size(sizes["head"])),
        ("optimizer state", "", _size(plan.optimizer)),
        ("batch", texts, _size(plan.batch)),
        ("comes and goes, by estimate", "", _size(plan.peak - plan.held)),
        ("  gradients", "", _size(plan.gradients)),
        (f"  parameters in {config.compute_dtype}", "", _size(plan.cast)),
        ("  activations kept for the backward pass", "", _size(plan.kept)),
        ("  one block's backward pass, or logits", "", _size(plan.working)),
        ("estimated peak", "", _size(plan.peak)),
        *([("peak of the step, as XLA compiles it", "", _size(compiled))] if compiled else []),
        ("", "", ""),
        (
            "KV cache of one text, in decoding",
            f"{model.context_length:,} tokens",
            _size(plan.cache),
        ),
        ("floating-point operations", "a token", _operations(plan.flops_per_token)),
        ("  by nanoGPT's and PaLM's count", "a step", _operations(plan.flops_per_step)),
    ]
    rows = [row for row in rows if row[0] != "  parameters in float32"]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    lines = [
        f"{label:<{widths[0]}}  {count:>{widths[1]}}  {size:>{widths[2]}}".rstrip()
        for label, count, size in rows
    ]
    shape = (
        f"{model.num_layers} layers, {model.num_heads} heads, width {model.embed_dim}, "
        f"T={model.context_length}, V={model.vocab_size}, {config.compute_dtype}"
    )
    if devices > 1:
        lines.insert(0, f"on each of {devices} devices, {config.fsdp} of which share parameters:")
    return "\n".join([shape, *lines])


def verdict(
    config: TrainConfig, plan: Plan, memory: int, devices: int = 1, *, peak_of: Peak
) -> str:
    """Whether a step fits into `memory` bytes on each device, or the flags that make it fit."""
    needed = peak_of(config)
    if needed <= memory:
        return f"fits: {needed / memory:.1%} of {_size(memory)}"
    line = f"does not fit in {_size(memory)}: "
    alone = plan.held + plan.gradients
    if alone > memory:
        return (
            f"{line}parameters, gradients and optimizer alone take {_size(alone)}; share them "
            "among more devices by --fsdp, or choose a smaller model"
        )
    found = [
        flags
        for remat in sorted({config.remat, True})
        if (flags := _cut(replace(config, remat=remat), memory, devices, peak_of))
    ]
    if not found:
        return (
            f"{line}not even one window at a time, by --remat; shorten --context-length, share "
            "the parameters among more devices by --fsdp, or choose a smaller model"
        )
    return line + "set " + ", or ".join(dict.fromkeys(found))


def _cut(config: TrainConfig, memory: int, devices: int, peak_of: Peak) -> str:
    """The flags by which micro-batches are as large as fit, or nothing."""
    windows = config.batch_size // devices
    small = [n for n in range(1, math.isqrt(windows) + 1) if windows % n == 0]
    cuts = sorted({*small, *(windows // n for n in small)})
    cuts = [n for n in cuts if n >= config.gradient_accumulation]

    def fits(cut: int) -> bool:
        return peak_of(replace(config, gradient_accumulation=cut)) <= memory

    place = bisect_left(cuts, True, key=fits)
    if place == len(cuts):
        return ""
    flags = "--remat " if config.remat else ""
    return f"{flags}--gradient-accumulation {cuts[place]} (micro-batch {windows // cuts[place]})"


def _size(count: int) -> str:
    unit = next((unit for unit in ("TB", "GB", "MB") if count >= _UNITS[unit]), "kB")
    return f"{count / _UNITS[unit]:,.1f} {unit}"


def _operations(count: int) -> str:
    prefix, scale = next(
        (item for item in (("P", 1e15), ("T", 1e12), ("G", 1e9)) if count >= item[1]), ("M", 1e6)
    )
    return f"{count / scale:,.1f} {prefix}FLOP"
