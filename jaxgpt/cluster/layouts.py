"""A run on devices that are not here: every mesh of them, its memory, its traffic and its time."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from jaxgpt.axes import Axes
from jaxgpt.cluster.communication import communication
from jaxgpt.config import TrainConfig
from jaxgpt.errors import ConfigError, brief
from jaxgpt.model.flops import flops_per_token
from jaxgpt.model.parameters import count_parameters
from jaxgpt.training.collectives import Traffic
from jaxgpt.training.mesh import grid
from jaxgpt.training.plan import Plan, make_plan

_MOST_DEVICES = 2**20


@dataclass(frozen=True)
class Machine:
    """Devices of a kind, and what links them."""

    memory: int
    """Bytes of a device."""
    flops: float
    """Floating-point operations a second of a device, as its maker states them."""
    utilization: float
    """The share of those that a step reaches where it waits for no other device."""
    link: int
    """Bytes a second that a device sends to others of its host."""
    network: int
    """Bytes a second that a device sends to other hosts."""
    per_host: int
    """Devices of a host."""


@dataclass(frozen=True)
class Layout:
    """A run on a mesh, with micro-batches as large as fit."""

    config: TrainConfig
    axes: Axes
    plan: Plan
    sent: dict[tuple[str, str], Traffic]
    """Collectives of a step by kind and axes; bytes are those that a device sends."""
    arithmetic: float
    """Seconds of a step in which a device computes."""
    sending: dict[str, float]
    """Seconds of a step in which a device sends, by axes."""
    most_layers: int
    """The most layers of this width that fit, with `remat` and a window at a time."""
    most_parameters: int

    @property
    def seconds(self) -> float:
        """Seconds of a step: what goes along `tensor`, and the longer of arithmetic and the rest.

        Products wait for what goes along `tensor`; weights and gradients can go beside them.
        """
        waited = sum(time for axes, time in self.sending.items() if "tensor" in axes)
        return waited + max(self.arithmetic, sum(self.sending.values()) - waited)

    @property
    def seconds_in_turn(self) -> float:
        """Seconds of a step in which nothing is sent while a device computes."""
        return self.arithmetic + sum(self.sending.values())


def parse_devices(text: str) -> list[int]:
    """Numbers of devices: one, such as 64, or by powers of two, such as 8..4096.

    Raises ConfigError for another text.
    """
    first, dots, last = (part.strip() for part in text.partition(".."))
    ends = [
        int(end) for end in (first, last if dots else first) if end.isdecimal() and len(end) < 9
    ]
    if len(ends) < 2 or not 1 <= ends[0] <= ends[1] <= _MOST_DEVICES:
        raise ConfigError(
            f"devices is {brief(text)}; write a number from 1 to {_MOST_DEVICES:,}, such as 64, or "
            "a range that doubles, such as 8..4096"
        )
    return [ends[0] << turn for turn in range((ends[1] // ends[0]).bit_length())]


def layouts(config: TrainConfig, devices: int, machine: Machine) -> list[Layout]:
    """Every mesh of so many devices that can be, those that fit first, the fastest first.

    Those whose `tensor` devices would lie on several hosts are left out, and where `config` names
    the size of an axis, all with another. In each, micro-batches are as large as fit: by `remat` if
    that is faster. Raises ConfigError if there is none.
    """
    found, refused = [], f"none has {config.axes}"
    for axes in _meshes(config.axes, devices, machine.per_host):
        trial = replace(config, mesh=str(axes), data_parallel=0, fsdp=1, gradient_accumulation=1)
        try:
            grid(trial, devices)
        except ConfigError as error:
            refused = str(error)
            continue
        found.append(_layout(trial, axes, machine))
    if not found:
        raise ConfigError(f"no mesh of {devices} devices can be: {refused}")
    return sorted(found, key=lambda each: rank(each, machine))


def rank(layout: Layout, machine: Machine) -> tuple[bool, float, float]:
    """Its place among others: whether it lacks memory; then its seconds, or how much it takes."""
    if layout.plan.peak > machine.memory:
        return True, float(layout.plan.peak), 0.0
    return False, layout.seconds, layout.seconds_in_turn


def _meshes(asked: Axes, devices: int, per_host: int) -> Iterator[Axes]:
    shares = [n for n in range(1, devices + 1) if devices % n == 0]
    for tensor, fsdp in itertools.product(shares, shares):
        axes = Axes(devices // (fsdp * tensor), fsdp, tensor)
        wanted = (
            ask in (standard, size) for ask, standard, size in zip(asked, Axes(), axes, strict=True)
        )
        if math.prod(axes) == devices and per_host % tensor == 0 and all(wanted):
            yield axes


def _layout(config: TrainConfig, axes: Axes, machine: Machine) -> Layout:
    devices, rows = math.prod(axes), config.batch_size // (axes.data * axes.fsdp)
    cuts = [n for n in range(1, rows + 1) if rows % n == 0]
    found = []
    for remat in sorted({config.remat, True}):
        for cut in cuts:
            trial = replace(config, remat=remat, gradient_accumulation=cut)
            plan = make_plan(trial, devices)
            if plan.peak <= machine.memory or cut == cuts[-1]:
                found.append(_timed(trial, axes, plan, machine))
                break
    return min(found, key=lambda each: rank(each, machine))


def _timed(config: TrainConfig, axes: Axes, plan: Plan, machine: Machine) -> Layout:
    devices = math.prod(axes)
    sent, sending = {}, {}
    for (kind, along), each in communication(config, axes).items():
        size = math.prod(getattr(axes, name) for name in along.split("+"))
        moved = round(each.bytes * _share_sent(kind, size))
        sent[kind, along] = Traffic(each.times, moved)
        sending[along] = sending.get(along, 0) + moved / _rate(along, axes, machine)
    layers, parameters = _largest(config, axes, machine.memory)
    return Layout(
        *(config, axes, plan, sent),
        arithmetic=_operations(config) / devices / (machine.flops * machine.utilization),
        sending=sending,
        most_layers=layers,
        most_parameters=parameters,
    )


def _operations(config: TrainConfig) -> float:
    """Floating-point operations of a step; with `remat` the blocks' forward pass comes twice."""
    model, tokens = config.model, config.batch_size * config.model.context_length
    whole = flops_per_token(model)
    blocks = whole - 6 * model.vocab_size * model.embed_dim
    return tokens * (whole + blocks / 3 * config.remat)


def _share_sent(kind: str, devices: int) -> float:
    """What a device sends, by ring algorithms, of the whole array that a collective is of."""
    if kind == "collective-permute":
        return 1
    return (2 if kind == "all-reduce" else 1) * (devices - 1) / devices


def _rate(along: str, axes: Axes, machine: Machine) -> int:
    """Bytes a second that a device sends to others along these axes.

    A ring through several hosts leaves each once, by the network's links of all its devices there;
    of all the rings that is the slowest.
    """
    between = [place for place, name in enumerate(Axes._fields) if name in along.split("+")]
    hosts = np.arange(math.prod(axes)).reshape(axes) // machine.per_host
    rings = np.moveaxis(hosts, between, range(-len(between), 0))
    rings = np.sort(rings.reshape(-1, math.prod(axes[place] for place in between)))
    most = 1 + int((np.diff(rings) > 0).sum(axis=1).max())
    return (
        machine.link if most == 1 else min(machine.link, rings.shape[1] // most * machine.network)
    )


def _largest(config: TrainConfig, axes: Axes, memory: int) -> tuple[int, int]:
    """The most layers that fit, and the parameters of such a model: both grow evenly with L."""
    rows = config.batch_size // (axes.data * axes.fsdp)
    few = config.model.window_period or 1
    models = [replace(config.model, num_layers=count) for count in (few, 2 * few)]
    trials = [
        replace(config, model=model, remat=True, gradient_accumulation=rows) for model in models
    ]
    less, more = (make_plan(trial, math.prod(axes)).peak for trial in trials)
    layers = max(0, few + (memory - less) * few // (more - less))
    fewer, further = map(count_parameters, models)
    return layers, fewer + (further - fewer) // few * (layers - few)
