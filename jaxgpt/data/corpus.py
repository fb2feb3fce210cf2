"""What a run names as its data -> tokens on disk and the tokenizer they are from."""

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from jaxgpt.config import DataConfig
from jaxgpt.data.atomic import check_new_folder
from jaxgpt.data.downloads import SOURCES, fetch
from jaxgpt.data.holdout import label_documents
from jaxgpt.data.ownership import foreign_names
from jaxgpt.data.parquet import import_parquet
from jaxgpt.data.paths import SUFFIXES, expand_paths, is_dataset
from jaxgpt.data.prepare import describe_sources, prepare, prepare_stories
from jaxgpt.data.sources import read_documents
from jaxgpt.data.stories import write_stories
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.terminal import note
from jaxgpt.tokenization.bpe import MERGES, train_bpe
from jaxgpt.tokenization.tokenizer import Tokenizer, load_tokenizer

Progress = Callable[[str, int, int | None], object]
"""Told what is done, how many bytes (or `MERGES`) of it are through, and of how many if known."""

_VOCABULARY_CHARACTERS = 50_000_000  # a vocabulary hardly changes beyond
_VOCABULARY_STORIES = 1_000_000  # bytes, in which the grammar has shown all its words


def open_corpus(
    config: DataConfig,
    folder: Path,
    *,
    verify: bool = False,
    expected: str | None = None,
    progress: Progress,
) -> tuple[TokenDataset, Tokenizer]:
    """The tokens and tokenizer of a run; text is tokenized into `folder` if it is not there yet.

    `config.data` that names a folder made by `prepare` is opened where it is. `verify` compares
    the sha256 sums of all shards. Damaged tokens in `folder` are made again from the same text, by
    which they must get the fingerprint `expected`, if there is one.

    Raises DataError if there is no usable text, if the tokens are from another tokenizer, or if a
    named source cannot be had or has changed.
    """
    if is_dataset(config.data):
        if config.validation_data:
            raise ConfigError(
                f"validation_data goes with text; {config.data[0]} is tokens, with a validation "
                "split of their own"
            )
        dataset = TokenDataset.open(config.data[0], verify=verify)
        _check_agreed(dataset, config.tokenizer)
        return dataset, dataset.tokenizer
    if not os.path.lexists(folder):
        return prepare_corpus(config, folder, progress=progress)
    try:
        dataset = TokenDataset.open(folder, verify=verify, remade=True)
        return dataset, dataset.tokenizer
    except DataError as error:
        damage = str(error).partition(";")[0]
    note(f"{damage}; the tokens are made again from {', '.join(config.data)}")
    try:
        return _prepare_again(config, folder, expected, progress)
    except DataError as error:
        raise DataError(f"{damage}, and cannot be made again: {error}") from None


def _prepare_again(
    config: DataConfig, folder: Path, expected: str | None, progress: Progress
) -> tuple[TokenDataset, Tokenizer]:
    """New tokens in the place of damaged ones, which are kept if not all in them is known."""
    aside = folder.with_name(f"{folder.name}.aside-{secrets.token_hex(4)}")
    unknown = not folder.is_dir() or folder.is_symlink() or foreign_names(folder)
    if unknown:
        folder.rename(aside)
    try:
        return prepare_corpus(config, folder, overwrite=True, expected=expected, progress=progress)
    except BaseException:
        if unknown:
            aside.rename(folder)
        raise


def prepare_corpus(
    config: DataConfig,
    folder: Path,
    *,
    shards: int = 1,
    overwrite: bool = False,
    expected: str | None = None,
    progress: Progress,
) -> tuple[TokenDataset, Tokenizer]:
    """Tokenize what `config` names into a new dataset at `folder`; the tokenizer comes with it.

    `shards` files are downloaded of a source that is given by name. What has not the fingerprint
    `expected`, if that is given, is not kept, and is a DataError. Raises ConfigError if `folder`
    cannot be written, and otherwise as `open_corpus` does.
    """
    check_new_folder(
        folder,
        overwrite=overwrite,
        inputs=(*config.data, *config.validation_data, config.tokenizer),
    )
    kind, _, size = config.tokenizer.partition(":")
    # Loaded before anything is downloaded, for the name may be wrong.
    tokenizer = None if kind == "bpe" else load_tokenizer(config.tokenizer)
    stories = config.data == ("stories",)
    paths = [] if stories else local_paths(config.data, shards=shards, progress=progress)
    held_out = local_paths(config.validation_data, shards=shards, progress=progress)
    if tokenizer is None:
        texts = _story_texts(config) if stories else _training_texts(config, paths)
        tokenizer = train_bpe(
            _head(texts, _VOCABULARY_CHARACTERS), int(size), progress=partial(progress, MERGES)
        )
    options = {
        "validation_fraction": config.validation_fraction,
        "overwrite": overwrite,
        "expected": expected,
        "progress": partial(progress, "tokenizing"),
    }
    if stories:
        return prepare_stories(config.stories_bytes, tokenizer, folder, **options), tokenizer
    options |= {"validation_paths": held_out, "text_field": config.text_field}
    return prepare(paths, tokenizer, folder, **options), tokenizer


def is_current(config: DataConfig, folder: Path) -> bool:
    """Whether the tokens in `folder` are those of the files that `config` names, as they are now.

    Files that are gone count as unchanged, for the tokens do without them; so does what was
    downloaded or is bundled.
    """
    if any(name == "stories" or name in SOURCES for name in config.data + config.validation_data):
        return True
    try:
        manifest = TokenDataset.open(folder).manifest
        sources = manifest["sources"]
        # Before the shards had sums by block, a folder gave fewer kinds of files.
        suffixes = SUFFIXES if "sums" in manifest else (".txt", ".jsonl", ".parquet")
        files = [
            file
            for data in filter(None, (config.data, config.validation_data))
            for file in expand_paths(data, suffixes)
        ]
    except (DataError, KeyError):  # told by whoever needs them
        return True
    return describe_sources(files) == sources


def local_paths(
    data: Iterable[str], *, shards: int = 1, progress: Progress | None = None
) -> list[str | Path]:
    """The files and folders to read, once what was given by name has been downloaded.

    Raises ConfigError if the bundled stories are mixed with other data, DataError if a download
    fails.
    """
    paths: list[str | Path] = []
    for name in data:
        if name == "stories":
            raise ConfigError("--data stories cannot be mixed with other data; name it by itself")
        if name not in SOURCES or Path(name).exists():
            paths.append(name)
            continue
        if SOURCES[name].urls[0].endswith(".parquet"):
            import_parquet()  # better to miss it now than after gigabytes of download
        paths += fetch(name, shards=shards, progress=progress)
    return paths


def _training_texts(config: DataConfig, paths: list[str | Path]) -> Iterator[str]:
    if config.validation_data:
        return (document.text for document in read_documents(paths, config.text_field))
    files = expand_paths(paths)
    documents = label_documents(files, config.validation_fraction, config.text_field)
    return (document.text for split, document in documents if split == "train")


def _story_texts(config: DataConfig) -> Iterator[str]:
    size = int(config.stories_bytes * (1 - config.validation_fraction))
    return (story.text for story in write_stories(min(size, _VOCABULARY_STORIES), seed=0))


def _head(texts: Iterator[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def _check_agreed(dataset: TokenDataset, spec: str) -> None:
    """Raise DataError unless prepared tokens are from the tokenizer that `spec` asks for."""
    own = dataset.tokenizer
    if spec in (own.name, f"{own.name}:{own.vocab_size}"):
        return
    if spec.startswith("bpe:") or load_tokenizer(spec).fingerprint != own.fingerprint:
        raise DataError(
            f"{dataset.folder} holds tokens of {own.name} ({own.vocab_size} ids), not of {spec}; "
            f"set --tokenizer {dataset.folder / 'tokenizer'}, or prepare the data again"
        )
