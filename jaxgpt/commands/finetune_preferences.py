"""Make a model answer as preferred.

A record of FILE (.json, .jsonl, .csv) has the fields prompt, or instruction and input, and two
answers, chosen and rejected; each may be a list of messages instead of a text. The method is direct
preference optimization; the reference is the model to begin with. The same command on the same
folder goes on where it was stopped.
"""

from dataclasses import dataclass

from jaxgpt.commands import cli
from jaxgpt.commands.finetuning import COMMON, RunArguments, say_measured, tune
from jaxgpt.finetuning.settings import PreferenceTuningConfig
from jaxgpt.shell import command
from jaxgpt.terminal import say


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments):
    """Everything that the command line decides."""

    config: PreferenceTuningConfig


def main(argv: list[str]) -> None:
    """Parse, train, say what came of it."""
    arguments = cli.parse(
        Arguments,
        "finetune preferences",
        argv,
        "--init-from RUN --data FILE [--out DIR]",
        common=(*COMMON, "template", "beta"),
        description=__doc__,
    )

    from jaxgpt.finetuning.tune_preferences import tune_preferences  # imports jax

    out, result = tune(arguments, "preferences", tune_preferences)
    say_measured(result.records)
    say(f"the run is in {out}: loss.png, README.md, metrics.jsonl, checkpoints/")
    say(f"talk to it: {command('chat', '--checkpoint', out)}")
