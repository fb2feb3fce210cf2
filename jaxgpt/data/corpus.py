"""What a run names as its data -> tokens on disk and the tokenizer they are from."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from jaxgpt.config import DataConfig
from jaxgpt.data.bpe import train_bpe
from jaxgpt.data.downloads import SOURCES, fetch
from jaxgpt.data.parquet import import_parquet
from jaxgpt.data.prepare import prepare, prepare_stories
from jaxgpt.data.sources import read_documents
from jaxgpt.data.stories import write_stories
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.data.tokens import MANIFEST, TokenDataset
from jaxgpt.errors import ConfigError, DataError

Progress = Callable[[str, int, int | None], object]
"""Told what is being read, how many bytes of it are through, and of how many if that is known."""

_VOCABULARY_CHARACTERS = 50_000_000  # a vocabulary hardly changes beyond
_VOCABULARY_STORIES = 1_000_000  # bytes, in which the grammar has shown all its words


def open_corpus(
    config: DataConfig, folder: Path, *, verify: bool = False, progress: Progress
) -> tuple[TokenDataset, Tokenizer]:
    """The tokens and tokenizer of a run; text is tokenized into `folder` if it is not there yet.

    `config.data` that names a folder made by `prepare` is opened where it is. `verify` compares
    the sha256 sums of all shards. Raises DataError if there is no usable text, if the tokens are
    from another tokenizer, or if a named source cannot be had.
    """
    prepared = Path(config.data[0]) if len(config.data) == 1 else None
    if prepared is not None and (prepared / MANIFEST).is_file():
        dataset = TokenDataset.open(prepared, verify=verify)
        return dataset, _tokenizer_of(dataset, config.tokenizer)
    if (folder / MANIFEST).is_file():
        dataset = TokenDataset.open(folder, verify=verify)
        return dataset, load_tokenizer(folder / "tokenizer")
    options = {
        "validation_fraction": config.validation_fraction,
        "progress": partial(progress, "tokenizing"),
    }
    if config.data == ("stories",):
        stories = write_stories(_VOCABULARY_STORIES, seed=0)
        tokenizer = make_tokenizer(config.tokenizer, (story.text for story in stories))
        return prepare_stories(config.stories_bytes, tokenizer, folder, **options), tokenizer
    paths = local_paths(config.data, progress=progress)
    texts = (document.text for document in read_documents(paths))
    tokenizer = make_tokenizer(config.tokenizer, texts)
    return prepare(paths, tokenizer, folder, **options), tokenizer


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


def make_tokenizer(spec: str, texts: Iterator[str]) -> Tokenizer:
    """The tokenizer that `spec` names; `bpe:N` trains one of N ids on `texts`."""
    kind, _, size = spec.partition(":")
    if kind != "bpe":
        return load_tokenizer(spec)
    return train_bpe(_head(texts, _VOCABULARY_CHARACTERS), int(size))


def _head(texts: Iterator[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def _tokenizer_of(dataset: TokenDataset, spec: str) -> Tokenizer:
    """The tokenizer that prepared tokens are from, which must be the one that `spec` asks for."""
    own = load_tokenizer(dataset.folder / "tokenizer")
    if spec in (own.name, f"{own.name}:{own.vocab_size}"):
        return own
    if spec.startswith("bpe:") or load_tokenizer(spec).fingerprint != own.fingerprint:
        raise DataError(
            f"{dataset.folder} holds tokens of {own.name} ({own.vocab_size} ids), not of {spec}; "
            f"set --tokenizer {dataset.folder / 'tokenizer'}, or prepare the data again"
        )
    return own
