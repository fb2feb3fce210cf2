"""Teach a pretrained model to answer: `finetune_instructions.py --init-from RUN --data FILE`.

A record of FILE (.json, .jsonl, .csv) has the fields instruction, input (may be empty) and output,
or messages, each with a role and a content. The same command on the same folder goes on where it
was stopped.
"""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cli

from jaxgpt.config import FolderOptions
from jaxgpt.finetuning.settings import InstructionConfig


@dataclass(frozen=True)
class Arguments:
    """Everything that the command line decides."""

    config: InstructionConfig
    options: FolderOptions = field(default_factory=FolderOptions)
    out: str = ""
    """The run's folder: checkpoints, loss.png, README.md, metrics.jsonl; runs/instructions by
    default."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; auto takes the best there is."""


def main(argv: list[str]) -> None:
    """Parse, train, say what came of it."""
    cli.need_arguments(argv, "finetune_instructions.py --init-from RUN --data FILE [--out DIR]")
    arguments = cli.parse(Arguments, argv, description=__doc__)

    from jaxgpt.finetuning.tune_instructions import tune_instructions  # these import jax
    from jaxgpt.parity.pretrained import load_base
    from jaxgpt.training.mesh import select_platform

    select_platform(arguments.platform)
    config = arguments.config
    with cli.standard_folder(arguments.out, Path("runs/instructions")) as out:
        result = tune_instructions(
            out,
            config,
            arguments.options,
            load_base(config.init_from, config.tokenizer),
            command=shlex.join(["python", *sys.argv]),
        )
    cli.leave_if_stopped(result.signal, out, result.model.step, result.model.train_config.steps)
    cli.say_measured(result.records)
    print(f"the run is in {out}: loss.png, README.md, metrics.jsonl, checkpoints/")
    print(f"talk to it: python scripts/chat.py --checkpoint {out}")


if __name__ == "__main__":
    cli.run(main)
