"""Tell the class of a text, or of every line of a file.

Prints a line for each text: its class, the probability of that, and the text, between tabs.
"""

import sys
import warnings
from dataclasses import dataclass

from jaxgpt.commands import cli
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.fields import check_range
from jaxgpt.files import read_regular
from jaxgpt.terminal import one_line, say


@dataclass(frozen=True)
class Arguments:
    """The classifier and the texts; one of text and file."""

    checkpoint: str
    """The folder of a run of `jaxgpt finetune classifier`, of one of its checkpoints, or of
    adapters."""
    text: str = ""
    """A text to classify."""
    file: str = ""
    """A file with a text on each line; - reads standard input. Blank lines are left out."""
    base: str = ""
    """Where the model that adapters were trained beside lies now, if it was moved."""
    best: bool = False
    """Take the checkpoint of the run's lowest validation loss instead of the newest."""
    batch_size: int = 32
    """Texts at a time."""
    all_classes: bool = False
    """Print the probability of every class."""

    def __post_init__(self):
        if bool(self.text) == bool(self.file):
            raise ConfigError("give the text by one of --text and --file")
        check_range("batch_size", self.batch_size, 1, 1_000_000)


def main(argv: list[str]) -> None:
    """Load, classify, print."""
    usage = '--checkpoint RUN --text "You won a prize"'
    arguments = cli.parse(Arguments, "classify", argv, usage, description=__doc__)
    texts = [arguments.text] if arguments.text else read_lines(arguments.file)

    from jaxgpt.finetuning.lora_file import check_base
    from jaxgpt.finetuning.tune_classifier import classify_texts, load_classifier
    from jaxgpt.training.evaluation import finite

    path = cli.checkpoint_of(arguments.checkpoint, best=arguments.best)
    check_base(path, arguments.base)
    model = load_classifier(path, arguments.base)
    classes = [one_line(name) for name in model.task["classes"]]
    found = classify_texts(model, texts, batch_size=arguments.batch_size)
    finite(float(found.sum()))
    for text, probabilities in zip(texts, found, strict=True):
        best = int(probabilities.argmax())
        shown = f"{probabilities[best]:.4f}"
        if arguments.all_classes:
            pairs = zip(classes, probabilities, strict=True)
            shown = " ".join(f"{name}={value:.4f}" for name, value in pairs)
        text = text.replace("\n", "\\n")  # a line for each
        say(f"{classes[best]}\t{shown}\t{text}")


def read_lines(file: str) -> list[str]:
    """The lines of a file or of standard input with a text; raises DataError if there is none."""
    name = "standard input" if file == "-" else file
    content = sys.stdin.buffer.read() if file == "-" else read_regular(file)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 at byte {error.start}; convert it, such as with iconv"
        ) from None
    if text.startswith("\ufeff"):
        warnings.warn(f"{name}: the UTF-8 byte-order mark was left out", stacklevel=2)
    text = text.removeprefix("\ufeff")
    lines = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{name} has no line with a text; give at least one")
    return lines
