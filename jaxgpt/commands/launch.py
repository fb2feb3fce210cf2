"""Run a training as several processes of this machine.

`jaxgpt launch --processes 4 -- train small --out runs/small`: what is behind the -- is the command
line of `jaxgpt train` or of a fine-tuning. Ctrl-C and the like stop all of them at one step.
"""

from dataclasses import dataclass

from jaxgpt.commands import cli
from jaxgpt.errors import ConfigError, brief
from jaxgpt.fields import check_at_least, check_fields
from jaxgpt.shell import COMMANDS


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How many processes, and of how many devices."""

    processes: int
    """Processes of the run."""
    devices: int = 1
    """Devices of each; a CPU stands in for as many."""

    def __post_init__(self):
        """Refuse what cannot be started."""
        check_fields(self)
        check_at_least(self, 1, "processes", "devices")


def main(argv: list[str]) -> None:
    """Parse, start, wait."""
    own, command = argv, []
    if "--" in argv:
        own, command = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    usage = "--processes N [--devices N] -- train ..."
    arguments = cli.parse(Arguments, "launch", own, usage, description=__doc__)
    names = [name for name in COMMANDS if name.split()[0] in ("train", "finetune")]
    if not any(command[: len(name.split())] == name.split() for name in names):
        given = brief(" ".join(command)) if command else "nothing"
        raise ConfigError(
            f"behind -- stands {given}; it must be the command line of one of {', '.join(names)}"
        )

    from jaxgpt.hosts.launch import launch

    raise SystemExit(launch(command, arguments.processes, arguments.devices))
