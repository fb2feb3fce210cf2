"""Continue a text with a trained model."""

import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from jaxgpt.commands import cli
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.fields import check_range
from jaxgpt.generation.settings import (
    MAX_NEW_TOKENS,
    MAX_SEED,
    SamplingConfig,
    WeightDtype,
)
from jaxgpt.terminal import escape_pieces, put

MAX_SAMPLES = 256


@dataclass(frozen=True)
class Arguments:
    """The model, the text to continue, and how."""

    model: cli.ModelSource
    prompt: str
    """The text to continue; - reads standard input; an empty one begins with end-of-text."""
    max_new_tokens: int = 200
    """Tokens to write, unless the text ends before."""
    num_samples: int = 1
    """Continuations to write, side by side; a single one is shown as it is written."""
    seed: int = 0
    """Decides every draw; sample i of a seed is the same however many are written."""
    stop: tuple[str, ...] = ()
    """Strings that end the text, which is printed without them."""
    truncate: Literal["none", "left"] = "none"
    """left drops the start of a prompt that the context has no room for."""
    ignore_end_of_text: bool = False
    """Write on after the end-of-text token."""
    errors: Literal["strict", "replace"] = "strict"
    """Refuse a prompt that is not UTF-8, or read its bad bytes as U+FFFD."""
    weight_dtype: WeightDtype = "stored"
    """Keep weights in so few bits, which a single text is written faster with, less exactly."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.8))
    """How a token is drawn."""

    def __post_init__(self):
        """Refuse what would fail only after the model is loaded."""
        check_range("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        check_range("num_samples", self.num_samples, 1, MAX_SAMPLES)
        check_range("seed", self.seed, 0, MAX_SEED)
        if "" in self.stop:
            raise ConfigError("a stop string is empty, which would end every text; leave it out")


def main(argv: list[str]) -> None:
    """Load, then write to standard output."""
    usage = '--checkpoint RUN --prompt "Once upon a time"'
    arguments = cli.parse(Arguments, "generate", argv, usage, description=__doc__)
    prompt = read_prompt(arguments.prompt, arguments.errors)
    for text in arguments.stop:
        if found := re.search(r"\\[nrt]", text):
            warnings.warn(
                f"the stop string {text} has a backslash and a letter in it, where a newline is "
                f"$'\\n' in the shell; write $'{found[0]}' if that is meant",
                stacklevel=2,
            )

    from jaxgpt.generation.text import stream_texts

    pieces = stream_texts(
        arguments.model.load(arguments.weight_dtype),
        [prompt] * arguments.num_samples,
        max_new_tokens=arguments.max_new_tokens,
        sampling=arguments.sampling,
        seed=arguments.seed,
        stop=arguments.stop,
        truncate=arguments.truncate,
        ignore_end_of_text=arguments.ignore_end_of_text,
    )
    show(prompt, pieces, escaped=sys.stdout.isatty())


def read_prompt(prompt: str, errors: str) -> str:
    """The prompt of the command line, or of standard input; raises DataError if it is no UTF-8."""
    data = sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
    try:
        return data.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise DataError(
            f"the prompt is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; "
            "mend it, or read bad bytes as U+FFFD (--errors replace)"
        ) from None


def show(prompt: str, pieces: Iterator[list[str]], *, escaped: bool) -> None:
    """Print the prompt and a single continuation as it comes, or several one after another."""
    clean = escape_pieces if escaped else iter
    first = next(pieces)  # before anything is printed: what is wrong with the arguments shows here
    if len(first) == 1:
        for piece in clean(chain([prompt + first[0]], chain.from_iterable(pieces))):
            put(piece)
        put("\n")
        return
    texts = map("".join, zip(first, *pieces, strict=True))
    for number, text in enumerate(clean(prompt + text for text in texts), start=1):
        put(f"--- sample {number} of {len(first)} ---\n{text}\n")
