"""What is named as text -> its files, a vocabulary learnt from it, and its tokens on disk."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from jaxgpt.config import DataConfig
from jaxgpt.data.atomic import check_new_folder
from jaxgpt.data.downloads import SOURCES, fetch
from jaxgpt.data.mixture import read_weights
from jaxgpt.data.parquet import import_parquet
from jaxgpt.data.paths import expand_paths
from jaxgpt.data.prepare import prepare, prepare_stories
from jaxgpt.data.sources import label_documents, read_documents
from jaxgpt.data.stories import write_stories
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import ConfigError
from jaxgpt.tokenization.bpe import MERGES, train_bpe
from jaxgpt.tokenization.tokenizer import Tokenizer, load_tokenizer

Progress = Callable[[str, int, int | None], object]
"""Told what is done, how many bytes (or `MERGES`) of it are through, and of how many if known."""

VOCABULARY_CHARACTERS = 50_000_000
"""Of the text that a vocabulary is learnt from; it hardly changes beyond."""

_VOCABULARY_STORIES = 1_000_000  # bytes, in which the grammar has shown all its words


def prepare_corpus(
    config: DataConfig,
    folder: Path,
    *,
    tokenizer: Tokenizer | None = None,
    shards: int = 1,
    overwrite: bool = False,
    expected: str | None = None,
    progress: Progress,
) -> tuple[TokenDataset, Tokenizer]:
    """Tokenize what `config` names into a new dataset at `folder`; the tokenizer comes with it.

    A `tokenizer` stands in place of the config's. `shards` files are downloaded of a source that is
    given by name. What has not the fingerprint `expected`, if that is given, is not kept, and is a
    DataError. Raises ConfigError if `folder` cannot be written or data has weights, which are for
    training, and otherwise as `open_corpus` does.
    """
    if weights := read_weights(config.data):
        raise ConfigError(
            f"data gives {next(iter(weights))} a weight, and tokens have none; prepare each source "
            "by itself, and name their folders with weights where a model is trained"
        )
    inputs = (*config.data, *config.validation_data, config.tokenizer)
    check_new_folder(folder, overwrite=overwrite, inputs=inputs)
    # Loaded before anything is downloaded, for the name may be wrong.
    if tokenizer is None and not config.tokenizer.startswith("bpe:"):
        tokenizer = load_tokenizer(config.tokenizer)
    stories = config.data == ("stories",)
    paths = [] if stories else local_paths(config.data, shards=shards, progress=progress)
    held_out = local_paths(config.validation_data, shards=shards, progress=progress)
    if tokenizer is None:
        texts = vocabulary_texts(config, paths)
        tokenizer = learn_vocabulary(head(texts), config.tokenizer, progress)
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


def local_paths(
    data: Iterable[str], *, shards: int = 1, progress: Progress | None = None
) -> list[str | Path]:
    """The files and folders to read, once what was given by name has been downloaded.

    Raises ConfigError for the bundled stories among other data, DataError as `fetch` does.
    """
    paths: list[str | Path] = []
    for name in data:
        if name == "stories":
            raise ConfigError(
                "--data stories cannot be mixed with other data without weights; name it by "
                "itself, or write --data stories=0.5 FILE=0.5"
            )
        if name not in SOURCES or Path(name).exists():
            paths.append(name)
            continue
        if SOURCES[name].urls[0].endswith(".parquet"):
            import_parquet()  # better to miss it now than after gigabytes of download
        paths += fetch(name, shards=shards, progress=progress)
    return paths


def learn_vocabulary(texts: Iterable[str], spec: str, progress: Progress) -> Tokenizer:
    """The tokenizer `spec`, which is `bpe:N`, learnt from texts."""
    return train_bpe(texts, int(spec.removeprefix("bpe:")), progress=partial(progress, MERGES))


def vocabulary_texts(config: DataConfig, paths: list[str | Path]) -> Iterator[str]:
    """The texts for training that are in `paths`, or stories."""
    if config.data == ("stories",):
        size = int(config.stories_bytes * (1 - config.validation_fraction))
        return (story.text for story in write_stories(min(size, _VOCABULARY_STORIES), seed=0))
    if config.validation_data:
        return (document.text for document in read_documents(paths, config.text_field))
    files = expand_paths(paths)
    documents = label_documents(files, config.validation_fraction, config.text_field)
    return (document.text for split, document in documents if split == "train")


def head(texts: Iterator[str], characters: int = VOCABULARY_CHARACTERS) -> Iterator[str]:
    """The first texts, until they have so many characters."""
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return
