"""Tokenize text into a dataset of train and validation tokens."""

import time
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.commands import cli
from jaxgpt.commands.progress import Progress
from jaxgpt.config import DataConfig
from jaxgpt.data.named_text import prepare_corpus
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.fields import check_range
from jaxgpt.terminal import say


@dataclass(frozen=True)
class Arguments:
    """What to tokenize, with what, and where to."""

    data: tuple[str, ...]
    """.txt, .jsonl, .json, .csv, .tsv or .parquet files, folders of them (what else a folder has is
    skipped, and named), patterns, or a name: tinyshakespeare, fineweb-edu or openwebtext
    (downloaded once), or stories (the bundled corpus, alone)."""
    out: Path
    """Folder to write, new or empty; give it to the training script as its data."""
    tokenizer: str = "gpt2"
    """gpt2, bytes, another tiktoken encoding's name, a folder made by `jaxgpt tokenizer`, or
    bpe:N to train a vocabulary of N ids on the training text."""
    validation_fraction: float = 0.1
    """Share of the text that is held out for validation, above 0 and below 1."""
    validation_data: tuple[str, ...] = ()
    """Files, folders or patterns to hold out instead of a share of the data."""
    text_field: str = "text"
    """The field, or column, of a record's text in files other than plain text."""
    shards: int = 1
    """Number of files to download of a data set given by its name."""
    stories_bytes: int = 8_000_000
    """Bytes of stories to tell, for the data set `stories`."""
    overwrite: bool = False
    """Replace a dataset that is already at `out`; a folder that holds anything else is refused."""

    def __post_init__(self):
        check_range("shards", self.shards, 1, 100_000)


def main(argv: list[str]) -> None:
    """Tokenize and report."""
    usage = "--data FILE ... --out DIR [--tokenizer NAME]"
    arguments = cli.parse(Arguments, "prepare", argv, usage, description=__doc__)
    cli.refuse_idle(argv, arguments)
    config = DataConfig(
        data=arguments.data,
        tokenizer=arguments.tokenizer,
        validation_fraction=arguments.validation_fraction,
        validation_data=arguments.validation_data,
        text_field=arguments.text_field,
        stories_bytes=arguments.stories_bytes,
    )
    start = time.perf_counter()
    dataset, _ = prepare_corpus(
        config,
        arguments.out,
        shards=arguments.shards,
        overwrite=arguments.overwrite,
        progress=Progress(),
    )
    report(dataset, time.perf_counter() - start)


def report(dataset: TokenDataset, seconds: float) -> None:
    """Print what the dataset holds and how long it took."""
    for name, split in dataset.splits.items():
        line = f"{name:<11}{split.num_tokens:>15,} tokens {split.num_bytes:>15,} bytes"
        line += f"   {split.tokens_per_byte:.4f} tokens per byte"
        if split.entropy_bits is not None:
            line += f"   {split.entropy_bits / split.num_bytes:.4f} bits per byte at best"
        say(line)
    num_bytes = sum(split.num_bytes for split in dataset.splits.values())
    say(f"time       {seconds:.1f} s, {num_bytes / seconds / 1e6:.1f} MB/s")
    say(f"saved      {dataset.folder.resolve()}")
