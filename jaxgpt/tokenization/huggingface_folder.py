"""The tokenizer in a Hugging Face folder: all files that say something about it."""

import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jaxgpt.errors import DataError
from jaxgpt.files import read_json, read_regular
from jaxgpt.tokenization.added_tokens import (
    ADDED,
    CHAT_TEMPLATE,
    CONFIG,
    MAP,
    AddedTokens,
    content_of,
    read_added_tokens,
    read_mapping,
)
from jaxgpt.tokenization.bpe_tokenizer import BPETokenizer, gpt2_tokenizer
from jaxgpt.tokenization.deferred_tokenizer import DeferredGPT2
from jaxgpt.tokenization.gpt2_vocabulary import (
    MissingVocabularyError,
    gpt2_ranks,
    ids_of_merges,
    is_gpt2_vocabulary,
    ranks_by_letters,
)
from jaxgpt.tokenization.json_tokenizer import JsonTokenizer
from jaxgpt.tokenization.tokenizer_description import DESCRIPTION_BYTES, byte_levels, normal_form
from jaxgpt.tokenization.tokenizer_json import describe
from jaxgpt.tokenization.vocabulary import END_OF_TEXT

GPT2_IDS = 50257
_TOKENIZER, _VOCABULARY, _MERGES = "tokenizer.json", "vocab.json", "merges.txt"
_MODEL, _GENERATION = "config.json", "generation_config.json"
_KEPT = (_TOKENIZER, CONFIG, MAP, ADDED, CHAT_TEMPLATE)
# Vocabularies of other kinds, which a model of GPT-2's shape may have as well.
_FOREIGN = (
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.txt",
    "tekken.json",
)
TOKENIZER_FILES = (_MERGES, _VOCABULARY, *_KEPT, _GENERATION, *_FOREIGN)
"""The files of a Hugging Face folder that decide on its tokenizer, beside its `config.json`."""


def is_huggingface_folder(folder: Path) -> bool:
    """Whether a folder has a tokenizer's files as Hugging Face writes them, or a model's config."""
    if os.path.isfile(folder / _TOKENIZER):  # jaxgpt writes a file of this name as well
        return is_description(folder / _TOKENIZER)
    there = any(os.path.isfile(folder / name) for name in (_VOCABULARY, _MERGES, *_FOREIGN))
    return there or "model_type" in read_mapping(folder / _MODEL)


def is_description(path: Path) -> bool:
    """Whether a JSON file is a `tokenizer.json` of Hugging Face's, by its keys."""
    values = read_json(path, limit=DESCRIPTION_BYTES)
    return isinstance(values, dict) and "model" in values and "kind" not in values


def read_huggingface_folder(folder: Path) -> BPETokenizer | JsonTokenizer | DeferredGPT2:
    """The tokenizer as `tokenizer.json` or `vocab.json` and `merges.txt` give it, with additions.

    Those are in `added_tokens.json`, `special_tokens_map.json` and `tokenizer_config.json`; the
    ends of a text are the `eos_token_id` of `generation_config.json` or `config.json`, else the
    tokenizer's own. A text begins with the `bos_token` where `tokenizer_config.json` has
    `add_bos_token`; a `tokenizer.json` has its post_processor for that. The tokenizer is GPT-2's by
    tiktoken where nothing in the folder makes it another.

    Raises:
        DataError: a file that cannot be read, that contradicts another, or that asks for what
            jaxgpt has no counterpart for; no vocabulary where the model has not as many ids as
            GPT-2. With GPT-2's by its number of ids alone, a vocabulary that is not on this machine
            is asked for when a text is encoded.
    """
    model, generation = read_mapping(folder / _MODEL), read_mapping(folder / _GENERATION)
    config = read_mapping(folder / CONFIG)
    inner = model.get("text_config")  # where the model sees as well
    size = (model | (inner if isinstance(inner, dict) else {})).get("vocab_size")
    size = size if type(size) is int else sys.maxsize
    ends = list(_ids(folder, (generation, model), "eos_token_id", size))
    try:
        source, description = _describe(folder, size)
    except MissingVocabularyError:
        if ends not in ([], [GPT2_IDS - 1]) or any(
            os.path.isfile(folder / name) for name in (ADDED, MAP, CONFIG)
        ):
            raise
        return DeferredGPT2()
    wanted, step = config.get("add_prefix_space"), description["pre_tokenizer"]
    if isinstance(wanted, bool) and byte_levels(step) == [step]:  # as transformers decides
        description["pre_tokenizer"] = step | {"add_prefix_space": wanted}
    tokens = read_added_tokens(folder, description)
    # A special token that the model has no row for is another's, such as an image's.
    description["added_tokens"] = [
        token for token in tokens.sorted() if token["id"] < size or not token["special"]
    ]
    named = read_mapping(folder / MAP) | config
    _set_beginning(folder, description, named, tokens)
    own = tokens.id_of(content_of(named.get("eos_token") or END_OF_TEXT))
    ends = ends or ([] if own is None else [own])
    if own in ends:  # what stands between documents is the tokenizer's, where the model ends at it
        ends = [own, *(end for end in ends if end != own)]
    padding = next(_ids(folder, (generation, model), "pad_token_id", size), None)
    # Where the model has more rows than there are tokens, some name one of those: none is written.
    there = {*description["model"]["vocab"].values()}
    there.update(token["id"] for token in description["added_tokens"])
    ends = [end for end in ends if end in there] or ends
    files = {
        name: read_regular(folder / name, limit=DESCRIPTION_BYTES)
        for name in _KEPT
        if os.path.isfile(folder / name)
    }
    talks = CHAT_TEMPLATE in files or named.get("chat_template")
    if is_gpt2(description) and ends == [GPT2_IDS - 1] and not talks:
        return _gpt2(description)
    return JsonTokenizer(
        description,
        ends=tuple(dict.fromkeys(ends)),
        begin_of_text=next(_ids(folder, (generation, model), "bos_token_id", size), None),
        padding=padding if padding in there else None,
        files=files,
        source=source,
    )


def read_tokenizer_file(path: Path) -> BPETokenizer | JsonTokenizer:
    """The tokenizer in a `tokenizer.json` of Hugging Face's, alone; GPT-2's by tiktoken if it is.

    Raises:
        DataError: see `read_huggingface_folder`.
    """
    description = normal_form(read_json(path, limit=DESCRIPTION_BYTES), path)
    if is_gpt2(description):
        return _gpt2(description)
    added = {token["content"]: token["id"] for token in description["added_tokens"]}
    ends = [added[END_OF_TEXT]] if END_OF_TEXT in added else []
    return JsonTokenizer(description, ends=ends, source=path)


def is_gpt2(description: Mapping[str, Any]) -> bool:
    """Whether a description in normal form gives the ids that GPT-2's tokenizer gives, always."""
    model, before = description["model"], description["pre_tokenizer"]
    before = before if isinstance(before, dict) else {}
    vocabulary, merges = model["vocab"], model.get("merges")
    after = description["post_processor"]
    odd = (
        description["normalizer"],
        model.get("dropout"),
        model.get("continuing_subword_prefix"),
        model.get("end_of_word_suffix"),
        model.get("unk_token") not in (None, END_OF_TEXT, ""),
        model.get("type") != "BPE",
        before.get("type") != "ByteLevel",
        before.get("add_prefix_space", True),
        not before.get("use_regex", True),
        after is not None and (not isinstance(after, dict) or after.get("type") != "ByteLevel"),
    )
    end = {"id": GPT2_IDS - 1, "content": END_OF_TEXT, "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    added = [{key: token.get(key) for key in end} for token in description["added_tokens"]]
    return not any(odd) and added in ([], [end]) and is_gpt2_vocabulary(vocabulary, merges)


def _describe(folder: Path, size: int) -> tuple[Path, dict[str, Any]]:
    """The description before any addition, and the file it is from."""
    path = folder / _TOKENIZER
    if os.path.isfile(path):
        return path, normal_form(read_json(path, limit=DESCRIPTION_BYTES), path)
    path = folder / _VOCABULARY
    if os.path.isfile(path):
        vocabulary = read_json(path, limit=DESCRIPTION_BYTES)
        return path, _plain(vocabulary, _read_merges(folder / _MERGES), path)
    found = [name for name in (_MERGES, *_FOREIGN) if os.path.isfile(folder / name)]
    if found == [_MERGES]:
        path, merges = folder / _MERGES, _read_merges(folder / _MERGES)
        if ids := ids_of_merges(merges):
            return path, _plain(ids | {END_OF_TEXT: len(ids)}, merges, path)
    if found:
        what = "without vocab.json" if found == [_MERGES] else "no byte-level BPE"
        raise DataError(
            f"{folder / found[-1]} is the vocabulary, and it is not GPT-2's ({what}); save the "
            "tokenizer as a tokenizer.json, or name another by --tokenizer, such as bytes"
        )
    if size < GPT2_IDS:
        raise DataError(f"{folder} has no tokenizer; name one by --tokenizer, such as bytes")
    return folder / _MODEL, dict(_gpt2_description())


@cache
def _gpt2_description() -> dict[str, Any]:
    return describe(gpt2_tokenizer(gpt2_ranks()))


def _gpt2(description: Mapping[str, Any]) -> BPETokenizer:
    return gpt2_tokenizer(ranks_by_letters(description["model"]["vocab"]))


def _plain(vocabulary: Any, merges: list[list[str]], source: Path) -> dict[str, Any]:
    """The description of the tokenizer that GPT-2's class makes of a vocabulary and merges."""
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges}
    return normal_form({"model": model, "pre_tokenizer": step, "decoder": step}, source)


def _read_merges(path: Path) -> list[list[str]]:
    try:
        lines = read_regular(path, limit=DESCRIPTION_BYTES).decode().split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from None
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if odd := [merge for merge in merges if len(merge) != 2]:
        raise DataError(f"{path}: {' '.join(odd[0])[:60]!r} is not a pair of tokens")
    return merges


def _set_beginning(
    folder: Path, description: dict[str, Any], named: Mapping[str, Any], tokens: AddedTokens
) -> None:
    """Let `tokenizer_config.json` decide on the token before a text where no post_processor does.

    There is none without a `tokenizer.json`; where there is one, transformers heeds it alone.
    """
    content, decided = content_of(named.get("bos_token")), os.path.isfile(folder / _TOKENIZER)
    if named.get("add_eos_token") and not decided:
        raise DataError(
            f"{folder / CONFIG} has add_eos_token {named['add_eos_token']!r}, but jaxgpt adds no "
            "token after a text; take it out of the file, or name another by --tokenizer"
        )
    begin = tokens.id_of(content)
    if begin is not None and named.get("add_bos_token") and not decided:
        texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
        first = {"SpecialToken": {"id": content, "type_id": 0}}
        description["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [first, texts[0]],
            "pair": [first, *texts],
            "special_tokens": {content: {"id": content, "ids": [begin], "tokens": [content]}},
        }


def _ids(
    folder: Path, configs: tuple[Mapping[str, Any], ...], name: str, size: int
) -> Iterator[int]:
    """The ids that the first config with `name` gives, as far as the model has rows for them."""
    given = next((values[name] for values in configs if values.get(name) is not None), [])
    for number in given if isinstance(given, list) else [given]:
        if type(number) is not int:
            raise DataError(f"{folder}: {name} is {given!r}; it must be a number or a list of them")
        if 0 <= number < size:
            yield number
