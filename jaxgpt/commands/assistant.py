"""Make an assistant from nothing: pretrain on stories, tune on questions about them, then on form.

Prints after each stage how many answers are right on stories that it has never seen. The same
command on the same folder goes on where it was stopped.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxgpt.assistant.recipe import Recipe
from jaxgpt.commands import cli
from jaxgpt.shell import command, this_command
from jaxgpt.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Everything that the command line decides."""

    recipe: Recipe = field(default_factory=Recipe)
    out: str = ""
    """The folder of the three runs, stages.json and stages.png; runs/assistant by default."""
    overwrite: bool = False
    """Begin anew, in place of what is in the folder."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; auto takes the best there is."""


def main(argv: list[str]) -> None:
    """Parse, make, say where things are."""
    arguments = cli.parse(Arguments, "assistant", argv, "[--out DIR]", description=__doc__)

    from jaxgpt.assistant.story_assistant import make_assistant
    from jaxgpt.training.mesh import select_platform

    select_platform(arguments.platform)
    with cli.standard_folder(arguments.out, Path("runs/assistant")) as out:
        make_assistant(
            out,
            arguments.recipe,
            overwrite=arguments.overwrite,
            command=this_command(),
            watch=lambda signal, step, steps: cli.leave_if_stopped(signal, out, step, steps),
        )
    say(f"the three runs are in {out}, beside stages.json and stages.png")
    say(f"talk to it: {command('chat', '--checkpoint', out / 'preferences')}")
    say('ask for it: "Tell me a story.", and then who it is about, where they went, and why')
