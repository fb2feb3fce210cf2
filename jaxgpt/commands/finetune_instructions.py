"""Teach a pretrained model to answer.

A record of FILE (.json, .jsonl, .csv) has the fields instruction, input (may be empty) and output,
or messages, each with a role and a content, or conversations, each with from and value (ShareGPT).
The same command on the same folder goes on where it was stopped.
"""

from dataclasses import dataclass

from jaxgpt.commands.finetuning import RunArguments, parse, tune_to_answer
from jaxgpt.finetuning.settings import InstructionConfig


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments):
    """Everything that the command line decides."""

    config: InstructionConfig


def main(argv: list[str]) -> None:
    """Parse, train, say what came of it."""
    switches = {"--special-tokens": "True", "--no-special-tokens": "False"}
    argv = [f"--special-tokens={switches[word]}" if word in switches else word for word in argv]
    arguments = parse(Arguments, "instructions", argv, __doc__, "template", "packing")

    from jaxgpt.finetuning.tune_instructions import tune_instructions

    tune_to_answer(arguments, "instructions", tune_instructions)
