"""Train a byte-pair vocabulary on text and save it as a tokenizer folder."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.commands import cli
from jaxgpt.commands.progress import Progress
from jaxgpt.data.atomic import new_folder
from jaxgpt.data.paths import expand_paths
from jaxgpt.data.sources import read_documents
from jaxgpt.fields import check_fields
from jaxgpt.terminal import say
from jaxgpt.tokenization.bpe import MERGES, train_bpe
from jaxgpt.tokenization.tokenizer import BPETokenizer

SAMPLE = 8_000_000  # characters on which the compression is measured


@dataclass(frozen=True)
class Arguments:
    """What to train on, how large, and where to."""

    data: tuple[str, ...]
    """Text to train on: .txt, .jsonl, .json, .csv, .tsv or .parquet files, folders of them, or
    patterns."""
    out: Path
    """Folder to write, new or empty; give it to the other scripts as their tokenizer."""
    vocab_size: int = 4096
    """Number of ids: 256 bytes, the merges, and `<|endoftext|>`."""
    text_field: str = "text"
    """The field, or column, of a record's text in files other than plain text."""
    strict: bool = False
    """Fail, rather than warn, when the text is too small for so large a vocabulary."""
    overwrite: bool = False
    """Replace what jaxgpt wrote at `out`; a folder that holds anything else is refused."""

    def __post_init__(self):
        check_fields(self)


def main(argv: list[str]) -> None:
    """Train, save and report."""
    usage = "--data FILE ... --out DIR [--vocab-size N]"
    arguments = cli.parse(Arguments, "tokenizer", argv, usage, description=__doc__)
    start, progress = time.perf_counter(), Progress()
    inputs = expand_paths(arguments.data)
    with new_folder(arguments.out, overwrite=arguments.overwrite, inputs=inputs) as partial:
        texts = (document.text for document in read_documents(arguments.data, arguments.text_field))
        tokenizer = train_bpe(
            texts,
            arguments.vocab_size,
            strict=arguments.strict,
            progress=lambda done, total: progress(MERGES, done, total),
        )
        tokenizer.save(partial)
    seconds = time.perf_counter() - start
    say(f"vocabulary   {tokenizer.vocab_size:,} ids, trained in {seconds:.1f} s")
    texts = sample(arguments.data, arguments.text_field)
    say(f"compression  {compression(tokenizer, texts):.2f} bytes per token")
    say(f"saved        {arguments.out.resolve()}")


def compression(tokenizer: BPETokenizer, texts: Iterable[str]) -> float:
    """Bytes of text per token."""
    tokens = size = 0
    for text in texts:
        tokens += len(tokenizer.encode(text))
        size += len(text.encode())
    return size / tokens


def sample(data: tuple[str, ...], text_field: str) -> Iterator[str]:
    """The first `SAMPLE` characters of the data."""
    left = SAMPLE
    for document in read_documents(data, text_field):
        yield document.text[:left]
        left -= len(document.text)
        if left <= 0:
            return
