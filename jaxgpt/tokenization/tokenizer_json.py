"""Any tokenizer as Hugging Face describes one, for the library transformers to read."""

import json
import math
import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from jaxgpt.errors import DataError
from jaxgpt.tokenization.bpe_tokenizer import BPETokenizer
from jaxgpt.tokenization.deferred_tokenizer import DeferredGPT2
from jaxgpt.tokenization.gpt2_vocabulary import GPT2_PATTERN, LETTER_OF_BYTE
from jaxgpt.tokenization.json_tokenizer import PROBE, JsonTokenizer
from jaxgpt.tokenization.tokenizer_description import SPECIAL, byte_levels, normal_form


def write_for_transformers(folder: Path, tokenizer: Any, context_length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, by which transformers gives the same ids.

    A tokenizer that cannot be described so, such as one of words, is left out with a warning. One
    that was read from such files has them written as they were.
    """
    files = getattr(tokenizer, "files", {})
    if "tokenizer.json" not in files:
        _write_described(folder, tokenizer, context_length)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _write_described(folder: Path, tokenizer: Any, context_length: int) -> None:
    try:
        described = JsonTokenizer(describe(tokenizer), **roles(tokenizer), source=tokenizer.name)
        if described.encode(PROBE) != tokenizer.encode(PROBE):
            raise DataError(f"the library tokenizers cuts words otherwise than {tokenizer.name}")
    except DataError as error:
        warnings.warn(f"{error}; so the folder has no tokenizer for transformers", stacklevel=2)
        return
    spelt: dict[int | None, str] = {
        token: content for content, token in described.special_tokens.items()
    }
    named = {
        "bos_token": spelt.get(described.begin_of_text),
        "eos_token": spelt.get(described.end_of_text),
        "pad_token": spelt.get(described.padding),
    }
    first = next(iter(byte_levels(described.description["pre_tokenizer"])), {})
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        **({"add_prefix_space": first.get("add_prefix_space", True)} if first else {}),
        **{role: content for role, content in named.items() if content is not None},
    }
    for name, values in (
        ("tokenizer.json", described.description),
        ("tokenizer_config.json", config),
    ):
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, "utf-8")


def roles(tokenizer: Any) -> dict[str, Any]:
    """The ids at which a text ends, begins, and is filled up, as `JsonTokenizer` takes them."""
    if isinstance(tokenizer, JsonTokenizer):
        found = (tokenizer.ends, tokenizer.begin_of_text, tokenizer.padding)
    else:
        end = tokenizer.end_of_text
        found = (() if end is None else (end,), end, None)
    return dict(zip(("ends", "begin_of_text", "padding"), found, strict=True))


def describe(tokenizer: Any) -> dict[str, Any]:
    """The description of a tokenizer's, as a `tokenizer.json` holds it.

    Raises:
        DataError: one of words, one that is not found, or a special token that is spelt as another
            token's bytes.
    """
    if isinstance(tokenizer, JsonTokenizer):
        return tokenizer.description
    if isinstance(tokenizer, DeferredGPT2):
        tokenizer = tokenizer.found
    if isinstance(tokenizer, BPETokenizer):
        return _describe(tokenizer.ranks, tokenizer.special_tokens, tokenizer.pattern)
    if tokenizer.name == "bytes":
        return _describe({bytes([byte]): byte for byte in range(256)}, {}, "")
    raise DataError(f"tokenizer {tokenizer.name} is no byte-level BPE")


def _describe(
    ranks: Mapping[bytes, int], special_tokens: Mapping[str, int], pattern: str
) -> dict[str, Any]:
    vocabulary = {
        token.decode("latin-1").translate(LETTER_OF_BYTE): rank for token, rank in ranks.items()
    }
    if clash := [content for content in special_tokens if content in vocabulary]:
        raise DataError(f"the special token {clash[0]!r} is spelt as an ordinary one is")
    # In the vocabulary too, so that ids may leave a gap before them.
    vocabulary |= special_tokens
    by_id = sorted(special_tokens.items(), key=lambda item: item[1])
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    before = level | {"use_regex": pattern == GPT2_PATTERN}
    if pattern not in ("", GPT2_PATTERN):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        steps = [split | {"invert": False}, before]
        before = {"type": "Sequence", "pretokenizers": steps}
    return normal_form(
        {
            "added_tokens": [{"id": token, "content": name} | SPECIAL for name, token in by_id],
            "pre_tokenizer": before,
            "post_processor": level | {"use_regex": True},
            "decoder": level | {"use_regex": True},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": merges_of(ranks)},
        },
        "the tokenizer",
    )


def merges_of(ranks: Mapping[bytes, int]) -> list[list[str]]:
    """The pair, in letters, that each token is merged from, in order of rank.

    It is what lower ranks make of the token's bytes: then alone do two neighbours join to it,
    whatever stands beside them. A token that they do not bring to a pair may come of any.
    """
    merges: list[list[str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = range(1, len(token))
        pairs = [
            [token[:cut], token[cut:]]
            for cut in cuts
            if token[:cut] in ranks and token[cut:] in ranks
        ]
        if len(pairs) > 1:
            parts = [token[place : place + 1] for place in range(len(token))]
            while len(parts) > 2:
                joined = [ranks.get(a + b, math.inf) for a, b in pairwise(parts)]
                lowest = min(joined)
                if lowest >= ranks[token]:
                    break
                place = joined.index(lowest)
                parts[place : place + 2] = [parts[place] + parts[place + 1]]
            pairs = [parts] if len(parts) == 2 else pairs
        merges += [[part.decode("latin-1").translate(LETTER_OF_BYTE) for part in p] for p in pairs]
    return merges
