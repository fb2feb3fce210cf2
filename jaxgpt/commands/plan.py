"""Tell what a run takes before it begins.

Parameters, optimizer, gradients, activations and arithmetic, the peak of a device's memory, and
what to change where that is too much. For the devices here the step is compiled, which tells the
peak; for others it is estimated. Nothing of the model is allocated. Every setting of `jaxgpt train`
has its flag here.
"""

import json
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

from jaxgpt.commands import cli
from jaxgpt.commands.train import begin_from
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import find_config, to_dict
from jaxgpt.files import write_file
from jaxgpt.terminal import say

COMMON = (
    *("memory", "platform", "json", "init_from", "steps", "batch_size", "gradient_accumulation"),
    *("compute_dtype", "attention", "remat", "data_parallel", "fsdp"),
    *("context_length", "num_layers", "num_heads", "embed_dim", "tokenizer"),
)


@dataclass(frozen=True)
class Arguments:
    """The run, and the machine that it is planned for."""

    config: TrainConfig
    memory: str = ""
    """Memory of a device, such as 80GB, to plan for devices that are not here, of which there are
    data_parallel times fsdp. The peak is then the estimate of a formula. By default the devices are
    those here."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where the run would be; auto takes the best there is."""
    json: str = ""
    """Where to write all figures as a .json, in bytes."""


def main(argv: list[str]) -> None:
    """Parse, plan, print."""
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "small"
    default = find_config(name)
    default = begin_from(default, argv, Path("runs") / Path(name).stem)
    arguments = cli.parse(
        Arguments,
        "plan",
        argv,
        "[PRESET] [--memory 80GB] [--batch-size N]",
        common=COMMON,
        default=Arguments(default),
        description=__doc__,
    )
    if arguments.json:
        cli.check_output("--json", arguments.json, ".json")

    # Not at the top: --help and a mistyped argument are answered without waiting for JAX.
    import jax

    from jaxgpt.training.memory import device_memory
    from jaxgpt.training.mesh import grid, make_mesh, select_platform
    from jaxgpt.training.plan import (
        compiled_peak,
        make_plan,
        multiplies_bfloat16,
        settle_vocabulary,
    )
    from jaxgpt.training.plan_report import parse_memory, table, verdict

    elsewhere = parse_memory(arguments.memory) if arguments.memory else None
    select_platform(arguments.platform)
    config = settle_vocabulary(arguments.config)
    devices = config.fsdp * max(1, config.data_parallel) if elsewhere else jax.device_count()
    grid(config, devices)
    plan = make_plan(config, devices, bfloat16=bool(elsewhere) or multiplies_bfloat16())
    if elsewhere:
        memory, peak_of, compiled = elsewhere, lambda trial: make_plan(trial, devices).peak, None
    else:
        memory, peak_of = device_memory(), cache(partial(compiled_peak, mesh=make_mesh(config)))
        compiled = peak_of(config)
    say(table(config, plan, devices, compiled))
    if memory is not None:
        say(verdict(config, plan, memory, devices, peak_of=peak_of))
        if elsewhere and 0.75 < plan.peak / memory <= 1:
            say(
                "JAX takes 75% of a GPU's memory; XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 gives it more"
            )
    if arguments.json:
        figures = asdict(plan) | {"peak": plan.peak, "compiled_peak": compiled}
        figures |= {"devices": devices, "memory": memory, "config": to_dict(config)}
        write_file(arguments.json, json.dumps(figures, indent=2) + "\n")
