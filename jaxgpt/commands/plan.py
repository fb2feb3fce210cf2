"""Tell what a run takes before it begins.

Parameters, optimizer, gradients, activations and arithmetic, the peak of a device's memory, and
what to change where that is too much. For the devices here the step is compiled, which tells the
peak; for others it is estimated. With --devices 8..4096, every mesh of as many as are not here: its
memory, its traffic, its time and the largest model. Nothing of the model is allocated. Every
setting of `jaxgpt train` has its flag here.
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

from jaxgpt.commands import cli
from jaxgpt.commands.train import begin_from
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import find_config, run_name, to_dict
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.fields import check_range
from jaxgpt.files import write_file
from jaxgpt.terminal import say

COMMON = (
    *("memory", "devices", "flops", "link", "platform", "json", "init_from"),
    *("steps", "batch_size", "gradient_accumulation", "compute_dtype", "remat", "mesh"),
    *("context_length", "num_layers", "num_heads", "embed_dim"),
)
_SHOWN, _SHOWN_OF_EACH = 8, 3  # meshes of one number of devices, and of each where there are more


@dataclass(frozen=True)
class Arguments:
    """The run, and the machine that it is planned for."""

    config: TrainConfig
    memory: str = ""
    """Memory of a device, such as 80GB, to plan for devices that are not here, of which there are
    as many as mesh names. The peak is then the estimate of a formula. By default the devices are
    those here."""
    devices: str = ""
    """How many devices to plan for that are not here, such as 64, or 8..4096 by powers of two:
    every mesh of them, the fastest first, with micro-batches as large as fit. Memory is 80GB there
    unless it is set."""
    flops: float = 989e12
    """Floating-point operations a second of each of them; by default those of an H100."""
    utilization: float = 0.5
    """The share of those that is reached where a device does not wait for others."""
    link: str = "450GB/s"
    """What each of them sends to others of its host."""
    network: str = "50GB/s"
    """What each of them sends to other hosts."""
    per_host: int = 8
    """How many of them a host has."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where the run would be; auto takes the best there is."""
    json: str = ""
    """Where to write all figures as a .json, in bytes."""

    def __post_init__(self):
        """Refuse devices that cannot be, and what describes them where none are asked for."""
        check_range("flops", self.flops, 1e6, 1e18)
        check_range("utilization", self.utilization, 0.01, 1)
        check_range("per_host", self.per_host, 1, 2**20)
        for name in ("flops", "utilization", "link", "network", "per_host"):
            if not self.devices and getattr(self, name) != getattr(Arguments, name):
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} is of devices that are not here; add --devices")


def main(argv: list[str]) -> None:
    """Parse, plan, print."""
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "small"
    preset, standard_out = find_config(name), Path("runs") / run_name(name)
    try:
        default = begin_from(preset, argv, standard_out)
    except DataError:  # no tokenizer in the folder, whose config.json has the vocabulary's size
        default = begin_from(preset, [*argv, "--tokenizer", preset.data.tokenizer], standard_out)
    usage, default = "[PRESET] [--memory 80GB] [--devices 8..4096]", Arguments(default)
    arguments = cli.parse(
        Arguments, "plan", argv, usage, common=COMMON, default=default, description=__doc__
    )
    cli.check_output("--json", arguments.json, ".json")
    if arguments.devices:
        if any(word.startswith(("--gradient-acc", "--gradient_acc")) for word in argv):
            raise ConfigError(
                "--gradient-accumulation is chosen for each mesh of --devices; drop it"
            )
        return _elsewhere(arguments)

    import jax

    from jaxgpt.training.collectives import traffic
    from jaxgpt.training.memory import device_memory
    from jaxgpt.training.mesh import grid, make_mesh, select_platform
    from jaxgpt.training.plan import (
        compiled_peak,
        compiled_step,
        make_plan,
        multiplies_bfloat16,
        settle_vocabulary,
    )
    from jaxgpt.training.plan_report import parse_memory, sent, table, verdict
    from jaxgpt.training.precision import settle_precision

    elsewhere = parse_memory(arguments.memory) if arguments.memory else None
    select_platform(arguments.platform)
    config = settle_vocabulary(arguments.config)
    config = _for_other_devices(config) if elsewhere else settle_precision(config)
    axes = config.axes
    devices = axes.sharing * max(1, axes.data) if elsewhere else jax.device_count()
    grid(config, devices)
    plan = make_plan(config, devices, bfloat16="all" if elsewhere else multiplies_bfloat16(devices))
    if elsewhere:
        memory, peak_of, compiled = elsewhere, lambda trial: make_plan(trial, devices).peak, None
        found = {}
    else:
        mesh = make_mesh(config)
        memory, peak_of = device_memory(), cache(partial(compiled_peak, mesh=mesh))
        compiled = peak_of(config)
        found = traffic(compiled_step(config, mesh).as_text(), mesh.shape)
    say(table(config, plan, devices, compiled))
    if found:
        say(sent(found))
    if memory is not None:
        say(verdict(config, plan, memory, devices, peak_of=peak_of))
        if elsewhere:
            _say_if_nearly_full(plan.peak, memory)
    if arguments.json:
        figures = asdict(plan) | {"peak": plan.peak, "compiled_peak": compiled}
        figures["traffic"] = {" along ".join(key): asdict(each) for key, each in found.items()}
        figures |= {"devices": devices, "memory": memory, "config": to_dict(config)}
        write_file(arguments.json, json.dumps(figures, indent=2) + "\n")


def _elsewhere(arguments: Arguments) -> None:
    """Plan for devices that are not here, and print the fastest meshes of each number of them."""
    from jaxgpt.cluster.layouts import Machine, layouts, parse_devices
    from jaxgpt.cluster.report import collectives, figures, heading, rows
    from jaxgpt.training.mesh import select_platform
    from jaxgpt.training.plan import settle_vocabulary
    from jaxgpt.training.plan_report import parse_memory, parse_rate

    counts = parse_devices(arguments.devices)
    machine = Machine(
        memory=parse_memory(arguments.memory or "80GB"),
        flops=arguments.flops,
        utilization=arguments.utilization,
        link=parse_rate("link", arguments.link),
        network=parse_rate("network", arguments.network),
        per_host=arguments.per_host,
    )
    select_platform(arguments.platform)
    config = _for_other_devices(settle_vocabulary(arguments.config))
    found, refused = {}, []
    for count in counts:
        try:
            found[count] = layouts(config, count, machine)
        except ConfigError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    shown = _SHOWN if len(counts) == 1 else _SHOWN_OF_EACH
    best = [layout for some in found.values() for layout in some[:shown]]
    say(heading(config, machine))
    say(rows(best, machine))
    for error in refused:
        say(str(error))
    if len(counts) == 1:
        say(collectives(best[0]))
    fits = [layout.plan.peak for layout in best if layout.plan.peak <= machine.memory]
    _say_if_nearly_full(max(fits, default=0), machine.memory)
    if arguments.json:
        written = asdict(machine) | {"config": to_dict(config)}
        written["layouts"] = [figures(layout) for some in found.values() for layout in some]
        write_file(arguments.json, json.dumps(written, indent=2) + "\n")


def _for_other_devices(config: TrainConfig) -> TrainConfig:
    """`config` with the precision that `auto` takes on GPUs and TPUs."""
    is_open = config.compute_dtype == "auto"
    return replace(config, compute_dtype="bfloat16") if is_open else config


def _say_if_nearly_full(peak: int, memory: int) -> None:
    if 0.75 < peak / memory <= 1:
        say("JAX takes 75% of a GPU's memory; XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 gives it more")
