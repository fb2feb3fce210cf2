"""Make a classifier of a pretrained model: `finetune_classifier.py --init-from RUN --data FILE`.

Each line of FILE is a label, a tab and a text (.tsv, .txt), or a record with the fields label and
text (.csv, .jsonl, .json). The same command on the same folder goes on where it was stopped.
"""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cli

from jaxgpt.config import FolderOptions
from jaxgpt.finetuning.settings import ClassifierConfig


@dataclass(frozen=True)
class Arguments:
    """Everything that the command line decides."""

    config: ClassifierConfig
    options: FolderOptions = field(default_factory=FolderOptions)
    out: str = ""
    """The run's folder: test.json, pictures, checkpoints, README.md; runs/classifier by default."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; auto takes the best there is."""


def main(argv: list[str]) -> None:
    """Parse, train, say how good it is."""
    cli.need_arguments(argv, "finetune_classifier.py --init-from RUN --data FILE [--out DIR]")
    arguments = cli.parse(Arguments, argv, description=__doc__)

    from jaxgpt.finetuning.tune_classifier import tune_classifier  # these import jax
    from jaxgpt.parity.pretrained import load_base
    from jaxgpt.training.mesh import select_platform

    select_platform(arguments.platform)
    config = arguments.config
    with cli.standard_folder(arguments.out, Path("runs/classifier")) as out:
        result, scores = tune_classifier(
            out,
            config,
            arguments.options,
            load_base(config.init_from, config.tokenizer),
            command=shlex.join(["python", *sys.argv]),
        )
    cli.leave_if_stopped(result.signal, out, result.model.step, result.model.train_config.steps)
    assert scores is not None
    print(table(list(result.model.task["classes"]), scores.confusion.tolist()))
    summary = scores.summary()
    print(
        f"test: {summary['texts']:,} texts, accuracy {summary['accuracy']:.1%}, balanced accuracy "
        f"{summary['balanced_accuracy']:.1%}, calibration error {summary['calibration_error']:.3f}"
    )
    print(f"the run is in {out}: test.json, loss.png, confusion.png, calibration.png, README.md")
    print(f'classify with it: python scripts/classify.py --checkpoint {out} --text "..."')


def table(classes: list[str], confusion: list[list[int]]) -> str:
    """The confusion matrix as text, a row for each true class."""
    cells = [["true \\ predicted", *classes]]
    cells += [[name, *map(str, row)] for name, row in zip(classes, confusion, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


if __name__ == "__main__":
    cli.run(main)
