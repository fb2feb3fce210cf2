"""Teach a pretrained model to answer.

A record of FILE (.json, .jsonl, .csv) has the fields instruction, input (may be empty) and output,
or messages, each with a role and a content, or conversations, each with from and value (ShareGPT).
The same command on the same folder goes on where it was stopped.
"""

from dataclasses import dataclass

from jaxgpt.commands import cli
from jaxgpt.commands.finetuning import COMMON, RunArguments, say_measured, tune
from jaxgpt.finetuning.settings import InstructionConfig
from jaxgpt.shell import command
from jaxgpt.terminal import say


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments):
    """Everything that the command line decides."""

    config: InstructionConfig


def main(argv: list[str]) -> None:
    """Parse, train, say what came of it."""
    switches = {"--special-tokens": "True", "--no-special-tokens": "False"}
    argv = [f"--special-tokens={switches[word]}" if word in switches else word for word in argv]
    arguments = cli.parse(
        Arguments,
        "finetune instructions",
        argv,
        "--init-from RUN --data FILE [--out DIR]",
        common=(*COMMON, "template", "packing"),
        description=__doc__,
    )

    from jaxgpt.finetuning.tune_instructions import tune_instructions  # imports jax

    out, result = tune(arguments, "instructions", tune_instructions)
    say_measured(result.records)
    say(f"the run is in {out}: loss.png, README.md, metrics.jsonl, checkpoints/")
    say(f"talk to it: {command('chat', '--checkpoint', out)}")
