"""Train a small model by many seeds and learning rates.

It ends with a table of how well each did; nothing else is kept. PRESET, tiny by default, and the
flags are those of `jaxgpt train`, but for what is about a run's folder.
"""

from dataclasses import dataclass
from typing import Literal

from jaxgpt.commands import cli
from jaxgpt.commands.progress import Progress
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import find_config
from jaxgpt.errors import ConfigError
from jaxgpt.files import write_file
from jaxgpt.terminal import say

COMMON = (
    *("seeds", "learning_rates", "csv", "platform", "steps", "batch_size", "context_length"),
    *("num_layers", "num_heads", "embed_dim", "data", "tokenizer", "warmup_steps"),
)


@dataclass(frozen=True)
class Arguments:
    """What is swept, and where the table is kept."""

    config: TrainConfig
    seeds: str = "0,1,2"
    """Seeds, with commas between."""
    learning_rates: str = ""
    """Peaks of the learning rate, with commas between; the preset's by default."""
    csv: str = ""
    """Where to write the table as a .csv, with all digits."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; auto takes the best there is."""


def main(argv: list[str]) -> None:
    """Parse, sweep, print the table."""
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "tiny"
    default = find_config(name)
    usage, default = "[PRESET] [--seeds 0,1,2] [--learning-rates 1e-3,3e-3]", Arguments(default)
    arguments = cli.parse(
        Arguments, "sweep", argv, usage, common=COMMON, default=default, description=__doc__
    )
    cli.refuse_idle(argv, arguments.config.data)
    given = {word.partition("=")[0].replace("_", "-") for word in argv}
    for flag, instead in (("--seed", "--seeds"), ("--learning-rate", "--learning-rates")):
        if flag in given:
            raise ConfigError(f"{flag} is for one run; a sweep takes {instead}")
    seeds = cli.numbers("--seeds", arguments.seeds, int)
    rates = cli.numbers("--learning-rates", arguments.learning_rates, float)
    cli.check_output("--csv", arguments.csv, ".csv")

    from jaxgpt.training.mesh import select_platform
    from jaxgpt.training.sweep import sweep

    select_platform(arguments.platform)
    found = sweep(arguments.config, seeds=seeds, learning_rates=rates, progress=Progress())
    say(found.table())
    if arguments.csv:
        write_file(arguments.csv, found.csv())
