"""Make a model answer as preferred.

A record of FILE (.json, .jsonl, .csv) has the fields prompt, or instruction and input, and two
answers, chosen and rejected; each may be a list of messages instead of a text. The method is direct
preference optimization; the reference is the model to begin with. The same command on the same
folder goes on where it was stopped.
"""

from dataclasses import dataclass

from jaxgpt.commands.finetuning import RunArguments, parse, tune_to_answer
from jaxgpt.finetuning.settings import PreferenceTuningConfig


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments):
    """Everything that the command line decides."""

    config: PreferenceTuningConfig


def main(argv: list[str]) -> None:
    """Parse, train, say what came of it."""
    arguments = parse(Arguments, "preferences", argv, __doc__, "template", "beta")

    from jaxgpt.finetuning.tune_preferences import tune_preferences

    tune_to_answer(arguments, "preferences", tune_preferences)
