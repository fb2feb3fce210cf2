"""A plan as a table to read, and what to change where it does not fit."""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import replace

from jaxgpt.config import TrainConfig
from jaxgpt.errors import ConfigError, brief
from jaxgpt.training.collectives import Traffic
from jaxgpt.training.plan import Plan

_UNITS = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "TiB": 2**40, "GiB": 2**30, "MiB": 2**20}


def parse_memory(text: str) -> int:
    """Bytes in a size such as 80GB or 16 GiB; raises ConfigError."""
    return _parse("memory", text, "80GB")


def parse_rate(name: str, text: str) -> int:
    """Bytes a second in a rate such as 450GB/s, of the setting `name`; raises ConfigError."""
    return _parse(name, text, "450GB/s", "/s")


def _parse(name: str, text: str, such_as: str, per: str = "") -> int:
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*([A-Za-z]+){per}", text.strip())
    scale = {unit.lower(): scale for unit, scale in _UNITS.items()}
    size = float(match[1]) * scale.get(match[2].lower(), 0) if match else 0
    if not 1 <= size <= 1e18:
        raise ConfigError(
            f"{name} is {brief(text)}; write a number with its unit, such as {such_as}"
        )
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
        ("parameters", f"{sum(counts.values()):,}", in_bytes(sum(sizes.values()))),
        *(
            (f"  {head if part == 'head' else part}", f"{counts[part]:,}", in_bytes(sizes[part]))
            for part in ("embeddings", "blocks", "head")
        ),
        ("optimizer state", "", in_bytes(plan.optimizer)),
        ("batch", texts, in_bytes(plan.batch)),
        ("comes and goes, by estimate", "", in_bytes(plan.peak - plan.held)),
        ("  gradients", "", in_bytes(plan.gradients)),
        (f"  parameters in {config.compute_dtype}", "", in_bytes(plan.cast)),
        ("  activations kept for the backward pass", "", in_bytes(plan.kept)),
        ("  one block's backward pass, or logits", "", in_bytes(plan.working)),
        ("estimated peak", "", in_bytes(plan.peak)),
        *([("peak of the step, as XLA compiles it", "", in_bytes(compiled))] if compiled else []),
        ("", "", ""),
        (
            "KV cache of one text, in decoding",
            f"{model.context_length:,} tokens",
            in_bytes(plan.cache),
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
        shares = config.axes.sharing
        lines.insert(0, f"on each of {devices} devices, {shares} of which share parameters:")
    return "\n".join([shape, *lines])


def sent(found: Mapping[tuple[str, str], Traffic]) -> str:
    """What devices send each other in a step, in lines: how often, and of arrays of what size."""
    lines = ["in a step, the arrays that devices bring together or share, as XLA compiles it:"]
    for (kind, axes), each in sorted(found.items(), key=lambda item: -item[1].bytes):
        lines.append(f"  {kind} along {axes}: {each.times:,} times, {in_bytes(each.bytes)}")
    return "\n".join(lines)


def verdict(
    config: TrainConfig, plan: Plan, memory: int, devices: int = 1, *, peak_of: Peak
) -> str:
    """Whether a step fits into `memory` bytes on each device, or the flags that make it fit."""
    needed = peak_of(config)
    if needed <= memory:
        return f"fits: {needed / memory:.1%} of {in_bytes(memory)}"
    line = f"does not fit in {in_bytes(memory)}: "
    alone = plan.held + plan.gradients
    if alone > memory:
        return (
            f"{line}parameters, gradients and optimizer alone take {in_bytes(alone)}; share them "
            "among more devices by --fsdp, or choose a smaller model"
        )
    trials = [replace(config, remat=remat) for remat in sorted({config.remat, True})]
    found = [flags for trial in trials if (flags := _cut(trial, memory, devices, peak_of))]
    if not found:
        return (
            f"{line}not even one window at a time, by --remat; shorten --context-length, share "
            "the parameters among more devices by --fsdp, or choose a smaller model"
        )
    return line + "set " + ", or ".join(dict.fromkeys(found))


def _cut(config: TrainConfig, memory: int, devices: int, peak_of: Peak) -> str:
    """The flags by which micro-batches are as large as fit, or nothing."""
    windows = config.batch_size // (devices // config.axes.tensor)
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


def in_bytes(count: int) -> str:
    """A number of bytes as a table shows it, such as 3.2 MB."""
    unit = next((unit for unit in ("TB", "GB", "MB") if count >= _UNITS[unit]), "kB")
    return f"{count / _UNITS[unit]:,.1f} {unit}"


def _operations(count: int) -> str:
    scales = {"P": 1e15, "T": 1e12, "G": 1e9}
    prefix = next((prefix for prefix, scale in scales.items() if count >= scale), "M")
    return f"{count / scales.get(prefix, 1e6):,.1f} {prefix}FLOP"
