"""Make a classifier of a pretrained model.

Each line of FILE is a label, a tab and a text (.tsv, .txt), or a record with the fields label and
text (.csv, .jsonl, .json). The same command on the same folder goes on where it was stopped.
"""

from dataclasses import dataclass

from jaxgpt.commands import cli
from jaxgpt.commands.finetuning import RunArguments, parse, tune
from jaxgpt.finetuning.settings import ClassifierConfig
from jaxgpt.shell import command
from jaxgpt.terminal import one_line, say


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments):
    """Everything that the command line decides."""

    config: ClassifierConfig


def main(argv: list[str]) -> None:
    """Parse, train, say how good it is."""
    arguments = parse(Arguments, "classifier", argv, __doc__, "balance", "pooling")

    from jaxgpt.finetuning.tune_classifier import tune_classifier

    out, (result, scores) = tune(arguments, "classifier", tune_classifier)
    say(table(list(result.model.task["classes"]), scores.confusion.tolist()))
    summary = scores.summary()
    say(
        f"test: {summary['texts']:,} texts, accuracy {summary['accuracy']:.1%}, balanced accuracy "
        f"{summary['balanced_accuracy']:.1%}, calibration error {summary['calibration_error']:.3f}"
    )
    cli.say_best(result.records)
    say(f"the run is in {out}: test.json, loss.png, confusion.png, calibration.png, README.md")
    say(f"classify with it: {command('classify', '--checkpoint', out, '--text', 'A text')}")


def table(classes: list[str], confusion: list[list[int]]) -> str:
    """The confusion matrix as text, a row for each true class."""
    classes = [one_line(name) for name in classes]
    cells = [["true \\ predicted", *classes]]
    cells += [[name, *map(str, row)] for name, row in zip(classes, confusion, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells)
    return "\n".join(map("  ".join, rows))
