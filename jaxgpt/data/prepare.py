"""Text files -> a dataset of train and validation tokens, written whole or not at all."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jaxgpt.data.atomic import new_folder
from jaxgpt.data.encode import SplitEncoder
from jaxgpt.data.paths import expand_paths
from jaxgpt.data.shards import SHARD_TOKENS, VERSION, TokenWriter
from jaxgpt.data.sources import are_collected, label_documents
from jaxgpt.data.stories import write_stories
from jaxgpt.data.text import Document
from jaxgpt.data.tokens import SPLITS, TokenDataset, write_manifest
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.files import file_sha256
from jaxgpt.tokenization.tokenizer import Tokenizer

Progress = Callable[[int, int], object]


def prepare(
    paths: Sequence[str | Path],
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    validation_fraction: float = 0.1,
    validation_paths: Sequence[str | Path] = (),
    text_field: str = "text",
    overwrite: bool = False,
    expected: str | None = None,
    progress: Progress | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenDataset:
    """Tokenize the documents in `paths` into a new dataset at `folder`.

    Of the plain text files, the last `validation_fraction` of their bytes is for validation, cut at
    the end of a line or word. Of other files, about that share of the documents is, chosen by a
    hash of the text, so that copies of one document never fall on both sides. Where there are
    `validation_paths`, all their documents are for validation, and all others for training. Each
    document is followed by the tokenizer's end of text; one plain text file alone goes without.
    Records have their text in `text_field`.

    `progress(done, total)` is told how many bytes of the files have been read. Unless the dataset
    gets the fingerprint `expected`, where that is given, nothing is written.

    Raises ConfigError for a `validation_fraction` not in (0, 1), or a `folder` that cannot be
    written; DataError for no usable text (see `read_documents`), none left for one of the splits,
    or other than was expected; ResourceError if the disk is full.
    """
    _check_fraction(validation_fraction)
    files = expand_paths(paths)
    held_out = expand_paths(validation_paths) if validation_paths else []
    documents = label_documents(files, validation_fraction, text_field, held_out)
    total = sum(file.stat().st_size for file in [*files, *held_out])
    return write_tokens(
        folder,
        tokenizer,
        _reporting(documents, total, progress),
        [*files, *held_out],
        end_of_text=are_collected(files) or (bool(held_out) and are_collected(held_out)),
        overwrite=overwrite,
        expected=expected,
        shard_tokens=shard_tokens,
    )


def prepare_stories(
    num_bytes: int,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    seed: int = 0,
    validation_fraction: float = 0.1,
    overwrite: bool = False,
    expected: str | None = None,
    progress: Progress | None = None,
) -> TokenDataset:
    """Tokenize `num_bytes` of the bundled stories, or a little more, into a dataset at `folder`.

    The stories run on as one text, of which the last `validation_fraction` is for validation, and
    the dataset records the entropy of both parts. `expected` and errors are as in `prepare`;
    DataError for too few bytes for a story in each split.
    """
    _check_fraction(validation_fraction)
    stories = write_stories(num_bytes, seed=seed)

    def documents() -> Iterator[tuple[str, Document]]:
        bytes_read = 0
        for story in stories:
            split = "train" if bytes_read < num_bytes * (1 - validation_fraction) else "validation"
            size = len(story.text.encode())
            bytes_read += size
            yield split, Document(story.text, source_bytes=size, entropy_bits=story.bits)

    return write_tokens(
        folder,
        tokenizer,
        _reporting(documents(), num_bytes, progress),
        end_of_text=False,
        overwrite=overwrite,
        expected=expected,
    )


def write_tokens(
    folder: str | Path,
    tokenizer: Tokenizer,
    documents: Iterable[tuple[str, Document]],
    files: Sequence[Path] = (),
    *,
    end_of_text: bool = True,
    overwrite: bool = False,
    expected: str | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenDataset:
    """Tokenize documents, each with its split, "train" or "validation", into a dataset at `folder`.

    With `end_of_text` each document is followed by the tokenizer's end of text, where it has one.
    Without, the documents run on as one text, tokenized across their borders. The entropy of a
    split is recorded where all its documents know theirs; `files` are where the documents are from,
    and `expected` is as in `prepare`. Raises ConfigError for a `folder` that cannot be written,
    DataError for a split without text, and ResourceError if the disk is full.
    """
    with new_folder(folder, overwrite=overwrite) as partial:
        writers, encoders = {}, {}
        with ExitStack() as stack:
            for name in SPLITS:
                writers[name] = stack.enter_context(
                    TokenWriter(partial, name, tokenizer.vocab_size, shard_tokens)
                )
                encoder = SplitEncoder(writers[name], tokenizer, end_of_text=end_of_text)
                encoders[name] = stack.enter_context(encoder)
            for name, document in documents:
                encoders[name].add(document)
        manifest = {
            "version": VERSION,
            "tokenizer": {
                "name": tokenizer.name,
                "fingerprint": tokenizer.fingerprint,
                "vocab_size": tokenizer.vocab_size,
            },
            "splits": {name: _summary(name, encoders[name], writers[name]) for name in SPLITS},
            "sources": describe_sources(files),
        }
        tokenizer.save(partial / "tokenizer")
        sums = [sums for name in SPLITS for sums in writers[name].sums]
        write_manifest(partial, manifest, sums)
        if expected not in (None, TokenDataset(partial, manifest, {}, tokenizer).fingerprint):
            raise DataError(
                "the text gives other tokens than before; bring the old text back, or set "
                "--allow-data-change"
            )
    return TokenDataset.open(folder, tokenizer=tokenizer)


def _check_fraction(validation_fraction: float) -> None:
    if not 0 < validation_fraction < 1:
        raise ConfigError(
            f"validation_fraction must lie between 0 and 1, not be {validation_fraction}; "
            "0.1 keeps a tenth for validation"
        )


def _summary(name: str, encoder: SplitEncoder, writer: TokenWriter) -> dict[str, Any]:
    if not writer.shards:
        raise DataError(
            f"no text was left for the {name} split; give more text or documents, or change the "
            "fraction that is kept for validation"
        )
    return {
        "tokens": sum(int(shard["tokens"]) for shard in writer.shards),
        "bytes": encoder.num_bytes,
        "documents": encoder.num_documents,
        "entropy_bits": encoder.entropy_bits,
        "shards": writer.shards,
    }


def describe_sources(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size in bytes and sha256 sum of each file, as the manifest keeps them."""
    return [
        {"name": file.name, "bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in files
    ]


def _reporting(
    documents: Iterator[tuple[str, Document]], total: int, progress: Progress | None
) -> Iterator[tuple[str, Document]]:
    done = 0
    for name, document in documents:
        yield name, document
        done += document.source_bytes
        if progress is not None:
            progress(min(done, total), total)
    if progress is not None:
        progress(total, total)  # empty documents and lines have not been counted
