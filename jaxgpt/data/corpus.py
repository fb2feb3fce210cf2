"""What a run names as its data -> tokens on disk and the tokenizer they are from."""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

from jaxgpt.config import DataConfig
from jaxgpt.data.downloads import SOURCES
from jaxgpt.data.mixture import Dataset, Mixture, counts_of, names_of, read_weights
from jaxgpt.data.named_text import (
    VOCABULARY_CHARACTERS,
    Progress,
    head,
    learn_vocabulary,
    local_paths,
    prepare_corpus,
    vocabulary_texts,
)
from jaxgpt.data.ownership import foreign_names
from jaxgpt.data.paths import SUFFIXES, expand_paths, is_dataset
from jaxgpt.data.prepare import describe_sources
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.fields import check
from jaxgpt.terminal import note
from jaxgpt.tokenization.tokenizer import Tokenizer, load_tokenizer


def open_corpus(
    config: DataConfig,
    folder: Path,
    *,
    verify: bool = False,
    expected: str | None = None,
    progress: Progress,
) -> tuple[Dataset, Tokenizer]:
    """The tokens and tokenizer of a run; text is tokenized into `folder` if it is not there yet.

    `config.data` that names a folder made by `prepare` is opened where it is. `verify` compares the
    sha256 sums of all shards. Damaged tokens in `folder` are made again from the same text, by
    which they must get the fingerprint `expected`, if any. The sources of a mixture are each such
    data, tokenized into folders `0`, `1`, ... in `folder`. Raises ConfigError for weights that are
    none (`read_weights`), DataError if there is no usable text, if the tokens are from another
    tokenizer, or if a source cannot be had or has changed.
    """
    weights = read_weights(config.data)
    if len(weights) > 1:
        mixture = _open_mixture(config, weights, folder, verify, progress)
        return mixture, mixture.tokenizer
    config = replace(config, data=names_of(config.data))
    dataset = _open_source(config, folder, None, verify, expected, progress)
    return dataset, dataset.tokenizer


def _open_mixture(
    config: DataConfig, weights: dict[str, float], folder: Path, verify: bool, progress: Progress
) -> Mixture:
    check(
        not config.validation_data,
        "validation_data goes with text without weights; of a mixture, a share of each source is "
        "held out",
    )
    counts, datasets = counts_of(weights), {}
    sources = {name: replace(config, data=(name,)) for name in weights}
    folders = [folder / str(number) for number in range(len(sources))]
    tokenizer = _shared_tokenizer(sources, folders, counts, progress)
    for place, (name, source) in zip(folders, sources.items(), strict=True):
        if not is_dataset(source.data):
            folder.mkdir(exist_ok=True)
        try:
            datasets[name] = _open_source(source, place, tokenizer, verify, None, progress)
        except DataError as error:
            raise DataError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from None
    return Mixture(datasets, counts)


def _shared_tokenizer(
    sources: dict[str, DataConfig],
    folders: Sequence[Path],
    counts: Sequence[int],
    progress: Progress,
) -> Tokenizer:
    """The tokenizer of a mixture; a vocabulary that is learnt has each source's share of text."""
    spec = next(iter(sources.values())).tokenizer
    if not spec.startswith("bpe:"):
        return load_tokenizer(spec)
    for (name, source), folder in zip(sources.items(), folders, strict=True):
        if is_dataset(source.data):
            dataset = TokenDataset.open(name)
            _check_agreed(dataset, spec)
            return dataset.tokenizer
        if os.path.lexists(folder):
            with suppress(DataError):
                return load_tokenizer(folder / "tokenizer")
    heads = []
    for source, count in zip(sources.values(), counts, strict=True):
        stories = source.data == ("stories",)
        paths = [] if stories else local_paths(source.data, progress=progress)
        share = VOCABULARY_CHARACTERS * count // sum(counts)
        heads.append(head(vocabulary_texts(source, paths), share))
    return learn_vocabulary(chain.from_iterable(heads), spec, progress)


def _open_source(
    config: DataConfig,
    folder: Path,
    tokenizer: Tokenizer | None,
    verify: bool,
    expected: str | None,
    progress: Progress,
) -> TokenDataset:
    """Data without weights: opened where it is, or tokenized into `folder`."""
    if is_dataset(config.data):
        if config.validation_data:
            raise ConfigError(
                f"validation_data goes with text; {config.data[0]} is tokens, with a validation "
                "split of their own"
            )
        dataset = TokenDataset.open(config.data[0], verify=verify)
        _check_agreed(dataset, config.tokenizer, tokenizer)
        return dataset
    if not os.path.lexists(folder):
        return prepare_corpus(config, folder, tokenizer=tokenizer, progress=progress)[0]
    try:
        return TokenDataset.open(folder, tokenizer=tokenizer, verify=verify, remade=True)
    except DataError as error:
        damage = str(error).partition(";")[0]
    note(f"{damage}; the tokens are made again from {', '.join(config.data)}")
    try:
        return _prepare_again(config, folder, tokenizer, expected, progress)
    except DataError as error:
        raise DataError(f"{damage}, and cannot be made again: {error}") from None


def _prepare_again(
    config: DataConfig,
    folder: Path,
    tokenizer: Tokenizer | None,
    expected: str | None,
    progress: Progress,
) -> TokenDataset:
    """New tokens in the place of damaged ones, which are kept if not all in them is known."""
    aside = folder.with_name(f"{folder.name}.aside-{secrets.token_hex(4)}")
    unknown = not folder.is_dir() or folder.is_symlink() or foreign_names(folder)
    if unknown:
        folder.rename(aside)
    try:
        return prepare_corpus(
            config,
            folder,
            tokenizer=tokenizer,
            overwrite=True,
            expected=expected,
            progress=progress,
        )[0]
    except BaseException:
        if unknown:
            aside.rename(folder)
        raise


def is_current(config: DataConfig, folder: Path) -> bool:
    """Whether the tokens in `folder` are those of the files that `config` names, as they are now.

    Files that are gone, for the tokens do without them, downloaded or bundled count as unchanged.
    """
    weights = read_weights(config.data)
    if len(weights) > 1:
        return all(
            is_current(replace(config, data=(name,)), folder / str(number))
            for number, name in enumerate(weights)
        )
    config = replace(config, data=names_of(config.data))
    if any(name == "stories" or name in SOURCES for name in config.data + config.validation_data):
        return True
    try:
        manifest = TokenDataset.open(folder).manifest
        sources = manifest["sources"]
        # Before the shards had sums by block, a folder gave fewer kinds of files.
        suffixes = SUFFIXES if "sums" in manifest else (".txt", ".jsonl", ".parquet")
        files = expand_paths(config.data, suffixes)
        if config.validation_data:
            files += expand_paths(config.validation_data, suffixes)
    except (DataError, KeyError):  # told by whoever needs them
        return True
    return describe_sources(files) == sources


def _check_agreed(dataset: TokenDataset, spec: str, shared: Tokenizer | None = None) -> None:
    """Raise DataError unless prepared tokens are from the `shared` tokenizer, or that of `spec`."""
    own = dataset.tokenizer
    if shared is not None and shared.fingerprint != own.fingerprint:
        raise DataError(
            f"{dataset.folder} holds tokens of {own.name} ({own.fingerprint[:12]}), and the other "
            f"sources are of {shared.name} ({shared.fingerprint[:12]}); prepare all with one "
            "--tokenizer"
        )
    if shared is not None or spec in (own.name, f"{own.name}:{own.vocab_size}"):
        return
    if spec.startswith("bpe:") or load_tokenizer(spec).fingerprint != own.fingerprint:
        raise DataError(
            f"{dataset.folder} holds tokens of {own.name} ({own.vocab_size} ids), not of {spec}; "
            f"set --tokenizer {dataset.folder / 'tokenizer'}, or prepare the data again"
        )
