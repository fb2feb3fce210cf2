"""Tokenize text into a dataset of train and validation tokens."""

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cli
from tqdm import tqdm

from jaxgpt.data.atomic import check_new_folder
from jaxgpt.data.downloads import SOURCES, fetch
from jaxgpt.data.parquet import import_parquet
from jaxgpt.data.prepare import prepare, prepare_stories
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import ConfigError

QUIET = 10.0  # seconds between two lines of progress where there is no terminal


@dataclass(frozen=True)
class Arguments:
    """What to tokenize, with what, and where to."""

    data: tuple[str, ...]
    """.txt, .jsonl or .parquet files, folders of them, patterns, or a name: tinyshakespeare,
    fineweb-edu or openwebtext (downloaded once), or stories (the bundled corpus, alone)."""
    out: Path
    """Folder to write, new or empty; give it to the training script as its data."""
    tokenizer: str = "gpt2"
    """"gpt2", "bytes", the name of an encoding of tiktoken, or a folder with a tokenizer."""
    validation_fraction: float = 0.1
    """Share of the text that is held out for validation, above 0 and below 1."""
    shards: int = 1
    """Number of files to download of a data set given by its name."""
    story_bytes: int = 20_000_000
    """Bytes of stories to tell, for the data set `stories`."""
    overwrite: bool = False
    """Replace a dataset that is already at `out`."""


def main(argv: list[str]) -> None:
    """Tokenize and report."""
    arguments = cli.parse(Arguments, argv, description=__doc__)
    check_new_folder(arguments.out, overwrite=arguments.overwrite)
    tokenizer = load_tokenizer(arguments.tokenizer)
    paths = [] if arguments.data == ("stories",) else local_paths(arguments)
    start = time.perf_counter()
    options = {
        "validation_fraction": arguments.validation_fraction,
        "overwrite": arguments.overwrite,
        "progress": partial(Progress(), "tokenizing"),
    }
    if paths:
        dataset = prepare(paths, tokenizer, arguments.out, **options)
    else:
        dataset = prepare_stories(arguments.story_bytes, tokenizer, arguments.out, **options)
    report(dataset, time.perf_counter() - start)


def local_paths(arguments: Arguments) -> list[str | Path]:
    """The files and folders to read, once what was given by name has been downloaded."""
    if "stories" in arguments.data:
        raise ConfigError("--data stories cannot be mixed with other data; prepare it by itself")
    paths: list[str | Path] = []
    for name in arguments.data:
        if name in SOURCES:
            if SOURCES[name].urls[0].endswith(".parquet"):
                import_parquet()  # better to miss it now than after gigabytes of download
            paths += fetch(name, shards=arguments.shards, progress=Progress())
        else:
            paths.append(name)
    return paths


class Progress:
    """Progress in bytes on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self.label, self.bar, self.due = "", None, time.monotonic() + QUIET

    def __call__(self, label: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes of what `label` names are through."""
        if sys.stderr.isatty():
            if self.bar is None or self.label != label:
                self.label = label
                self.bar = tqdm(desc=label, total=total, unit="B", unit_scale=True)
            self.bar.update(done - self.bar.n)
            if done == total:
                self.bar.close()
        elif time.monotonic() >= self.due:
            self.due = time.monotonic() + QUIET
            of = "" if total is None else f" of {total / 1e6:,.0f}"
            print(f"{label}: {done / 1e6:,.0f}{of} MB", file=sys.stderr, flush=True)


def report(dataset: TokenDataset, seconds: float) -> None:
    """Print what the dataset holds and how long it took."""
    for name, split in dataset.splits.items():
        line = f"{name:<11}{split.num_tokens:>15,} tokens {split.num_bytes:>15,} bytes"
        line += f"   {split.tokens_per_byte:.4f} tokens per byte"
        if split.entropy_bits is not None:
            line += f"   {split.entropy_bits / split.num_bytes:.4f} bits per byte at best"
        print(line)
    num_bytes = sum(split.num_bytes for split in dataset.splits.values())
    print(f"time       {seconds:.1f} s, {num_bytes / seconds / 1e6:.1f} MB/s")
    print(f"saved      {dataset.folder.resolve()}")


if __name__ == "__main__":
    cli.run(main)
