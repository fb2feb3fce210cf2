"""Layouts of a run on devices that are not here, as a table to read and as figures to keep."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jaxgpt.axes import Axes
from jaxgpt.cluster.layouts import Layout, Machine
from jaxgpt.config import TrainConfig
from jaxgpt.training.plan_report import in_bytes

_AXES = ("data", "fsdp", "tensor")
_HEAD = (
    *("devices", "mesh", "windows", "held", "peak", *_AXES),
    *("computes", "step", "in turn", "tokens/s", "most layers"),
)


def heading(config: TrainConfig, machine: Machine) -> str:
    """What is planned, for which devices, and how times are estimated."""
    model, length = config.model, config.model.context_length
    return (
        f"{model.num_layers} layers, {model.num_heads} heads, width {model.embed_dim}, "
        f"T={length}, V={model.vocab_size}, {config.compute_dtype}; "
        f"a step of {config.batch_size} windows, {config.batch_size * length:,} tokens\n"
        f"estimates for devices of {in_bytes(machine.memory)} and {machine.flops / 1e12:,.0f} "
        f"TFLOP/s, {machine.utilization:.0%} of which they reach, {machine.per_host} to a host; "
        f"each sends {in_bytes(machine.link)}/s within it, "
        f"{in_bytes(machine.network)}/s to others\n"
        "windows: micro-batches and their size; data, fsdp, tensor: what a device sends along them "
        "in a step\nstep: what goes along tensor, which products wait for, and the longer of what "
        "it computes and the rest\nin turn: one after the other; most layers: of this width, with "
        "remat and a window at a time"
    )


def rows(layouts: Sequence[Layout], machine: Machine) -> str:
    """The layouts as a table, a line each; what does not fit has no times."""
    table = [_HEAD, *(_row(layout, machine) for layout in layouts)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if place == 1 else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def _row(layout: Layout, machine: Machine) -> tuple[str, ...]:
    config, axes, plan = layout.config, layout.axes, layout.plan
    sends: dict[str, int] = dict.fromkeys(_AXES, 0)
    for (_, along), each in layout.sent.items():
        # What goes along several axes at once waits for the farthest of them.
        sends[along.split("+")[0]] += each.bytes
    fits = plan.peak <= machine.memory
    tokens = config.batch_size * config.model.context_length
    times = (
        f"{layout.arithmetic:,.3f} s",
        f"{layout.seconds:,.3f} s",
        f"{layout.seconds_in_turn:,.3f} s",
        f"{tokens / layout.seconds:,.0f}",
    )
    cut = f"{config.gradient_accumulation} x {plan.micro_batch}{' remat' if config.remat else ''}"
    return (
        *(f"{axes.data * axes.fsdp * axes.tensor:,}", _named(axes), cut),
        *(in_bytes(plan.held), in_bytes(plan.peak)),
        *(in_bytes(sends[axis]) if sends[axis] else "-" for axis in _AXES),
        *(times if fits else ("does", "not", "fit", "-")),
        f"{layout.most_layers:,} ({layout.most_parameters / 1e9:,.1f}B)",
    )


def _named(axes: Axes) -> str:
    """The axes as `--mesh` takes them, without those of one device."""
    return str(Axes(*(size if size > 1 else 0 for size in axes))) or "data=1"


def collectives(layout: Layout) -> str:
    """What a device sends in a step, by kind and axes, the most first."""
    lines = [f"with {_named(layout.axes)}, each device sends in a step, by ring algorithms:"]
    for (kind, along), each in sorted(layout.sent.items(), key=lambda item: -item[1].bytes):
        lines.append(f"  {kind} along {along}: {each.times:,} times, {in_bytes(each.bytes)}")
    return "\n".join(lines)


def figures(layout: Layout) -> dict[str, Any]:
    """All of a layout, in bytes and seconds."""
    return {
        "mesh": layout.axes._asdict(),
        "gradient_accumulation": layout.config.gradient_accumulation,
        "remat": layout.config.remat,
        **asdict(layout.plan),
        "held": layout.plan.held,
        "peak": layout.plan.peak,
        "sent": {" along ".join(key): asdict(each) for key, each in layout.sent.items()},
        "arithmetic_seconds": layout.arithmetic,
        "sending_seconds": layout.sending,
        "step_seconds": layout.seconds,
        "step_seconds_in_turn": layout.seconds_in_turn,
        "most_layers": layout.most_layers,
        "most_parameters": layout.most_parameters,
    }
