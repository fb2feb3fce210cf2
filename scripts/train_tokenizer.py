"""Train a byte-pair vocabulary on text and save it as a tokenizer folder."""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cli

from jaxgpt.data.bpe import train_bpe
from jaxgpt.data.sources import read_documents
from jaxgpt.data.tokenizer import BPETokenizer
from jaxgpt.errors import ConfigError, ResourceError

SAMPLE = 8_000_000  # characters on which the compression is measured


@dataclass(frozen=True)
class Arguments:
    """What to train on, how large, and where to."""

    data: tuple[str, ...]
    """Text to train on: .txt, .jsonl or .parquet files, folders of them, or patterns."""
    out: Path
    """Folder to write, new or empty; give it to the other scripts as their tokenizer."""
    vocab_size: int = 4096
    """Number of ids: 256 bytes, the merges, and `<|endoftext|>`."""
    strict: bool = False
    """Fail, rather than warn, when the text is too small for so large a vocabulary."""


def main(argv: list[str]) -> None:
    """Train, save and report."""
    arguments = cli.parse(Arguments, argv, description=__doc__)
    out = arguments.out.resolve()
    check_out(out)
    start = time.perf_counter()
    texts = (document.text for document in read_documents(arguments.data))
    tokenizer = train_bpe(texts, arguments.vocab_size, strict=arguments.strict)
    seconds = time.perf_counter() - start
    save(tokenizer, out)
    print(f"vocabulary   {tokenizer.vocab_size:,} ids, trained in {seconds:.1f} s")
    print(f"compression  {compression(tokenizer, arguments.data):.2f} bytes per token")
    print(f"saved        {out}")


def check_out(out: Path) -> None:
    """Refuse, before any work, a folder that holds something or cannot be written."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a new or empty folder")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"--out {out} is not empty; give a new folder, or remove this one")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: {out.parent} is no folder; make it first")
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"--out {out}: {out.parent} cannot be written; give another folder")


def save(tokenizer: BPETokenizer, out: Path) -> None:
    """Write the whole folder under another name first, so that `out` is never half there."""
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as partial:
            folder = Path(partial, out.name)
            tokenizer.save(folder)
            if out.exists():
                out.rmdir()
            folder.rename(out)
    except OSError as error:
        raise ResourceError(f"cannot write --out {out}: {error.strerror}") from error


def compression(tokenizer: BPETokenizer, data: tuple[str, ...]) -> float:
    """Bytes of text per token, on the first `SAMPLE` characters of the data."""
    tokens = size = 0
    for text in sample(data):
        tokens += len(tokenizer.encode(text))
        size += len(text.encode())
    return size / tokens


def sample(data: tuple[str, ...]) -> Iterator[str]:
    """The first `SAMPLE` characters of the data."""
    left = SAMPLE
    for document in read_documents(data):
        yield document.text[:left]
        left -= len(document.text)
        if left <= 0:
            return


if __name__ == "__main__":
    cli.run(main)
