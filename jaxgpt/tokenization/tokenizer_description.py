"""What a `tokenizer.json` of Hugging Face's holds: one form of it, and what of it can be read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgpt.errors import DataError
from jaxgpt.tokenization.gpt2_vocabulary import LETTER_OF_BYTE

DESCRIPTION_BYTES = 1 << 26
"""The most that a `tokenizer.json` may have."""
SPECIAL = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
"""How a special token is described, beside its id and content."""
# What a BPE model of the library may say that changes what its tokens spell, or draws lots.
_PLAIN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


def normal_form(description: Any, source: str | Path) -> dict[str, Any]:
    """The same description without what is no matter, one way where the library reads several.

    Truncation and padding, which are the caller's, are left out; merges are pairs.

    Raises:
        DataError: no description of a tokenizer, or of one that is no byte-level BPE.
    """
    try:
        model = dict(description["model"])
        if model.get("type") is None and "merges" in model:
            model["type"] = "BPE"
        _check_model(model, description.get("pre_tokenizer"), source)
        merges = model.get("merges") or []
        model["merges"] = [m.split(" ") if isinstance(m, str) else list(m) for m in merges]
        added = [
            SPECIAL | {"special": False} | dict(token)
            for token in description.get("added_tokens") or []
        ]
        for token in added:
            if type(token["id"]) is not int or not isinstance(token["content"], str):
                raise TypeError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"{source} describes no tokenizer; save it again") from None
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **{part: description.get(part) for part in parts},
        "model": model,
    }


def byte_levels(part: Any) -> list[dict[str, Any]]:
    """The ByteLevel steps of a pre_tokenizer, however deep."""
    found, waiting = [], [part]
    while waiting:
        step = waiting.pop()
        if isinstance(step, list):
            waiting += reversed(step)
        elif isinstance(step, dict):
            found += [step] if step.get("type") == "ByteLevel" else []
            waiting.append(step.get("pretokenizers"))
    return found


def _check_model(model: Mapping[str, Any], before: Any, source: str | Path) -> None:
    if model.get("type") != "BPE":
        raise DataError(
            f"{source}: its model is {model.get('type')!r}; jaxgpt reads byte-level BPE alone"
        )
    for name in _PLAIN:
        if model.get(name):
            raise DataError(f"{source}: its model has {name} {model[name]!r}; jaxgpt has none")
    if not byte_levels(before):
        kind = before.get("type") if isinstance(before, dict) else before
        raise DataError(
            f"{source}: its pre_tokenizer is {kind!r}, without ByteLevel; jaxgpt reads byte-level "
            "BPE alone"
        )
    vocabulary = model["vocab"]
    if not all(type(token) is int for token in vocabulary.values()):
        raise TypeError
    missing = [byte for byte, letter in LETTER_OF_BYTE.items() if letter not in vocabulary]
    if missing:
        raise DataError(
            f"{source}: its vocabulary has no token for byte 0x{missing[0]:02X} ({len(missing)} of "
            "256 bytes missing), so it cannot encode every text"
        )
    if len(set(vocabulary.values())) != len(vocabulary):
        raise DataError(f"{source}: its vocabulary gives two tokens one id")
