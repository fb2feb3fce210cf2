"""What a `tokenizer.json` of Hugging Face's holds: one form of it, and what of it can be read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgpt.errors import DataError
from jaxgpt.tokenization.gpt2_vocabulary import BYTE_OF_LETTER

DESCRIPTION_BYTES = 1 << 26
"""The most that a `tokenizer.json` may have."""
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
SPECIAL = dict.fromkeys(FLAGS, False) | {"special": True}
"""How a special token is described, beside its id and content."""
SPACE = "\u2581"
"""What stands for a space in the spelling of tokens that are characters and not bytes."""
BYTE_TOKENS = {f"<0x{byte:02X}>": byte for byte in range(256)}
"""How a vocabulary of characters spells the bytes of those that it lacks."""
# What a BPE model of the library may say that changes what its tokens spell, or draws lots.
_PLAIN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


def normal_form(description: Any, source: str | Path) -> dict[str, Any]:
    """The same description without what is no matter, one way where the library reads several.

    Truncation and padding, which are the caller's, are left out; merges are pairs. Raises DataError
    for no description of a tokenizer, or of one that is no BPE with all bytes.
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


def bound_tokens(description: Mapping[str, Any]) -> set[str]:
    """The added tokens that ordinary texts are encoded to as well, such as a sign for padding."""
    model = description["model"]
    inside = {token["content"] for token in description["added_tokens"]} & model["vocab"].keys()
    merges = model["merges"] if inside else ()
    parts = {part for merge in merges for part in (*merge, "".join(merge))} | BYTE_TOKENS.keys()
    return {name for name in inside if len(name) == 1 or name in parts}


def respelt(description: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The description with added tokens spelt as `names` say, and without other special ones."""
    model, added = description["model"], description["added_tokens"]
    vocabulary = {names.get(spelt, spelt): token for spelt, token in model["vocab"].items()}
    unknown = names.get(model.get("unk_token"), model.get("unk_token"))
    kept = [token for token in added if token["content"] in names or not token["special"]]
    return {
        **description,
        "added_tokens": [t | {"content": names.get(t["content"], t["content"])} for t in kept],
        "model": model | {"vocab": vocabulary, "unk_token": unknown},
    }


def is_byte_level(description: Mapping[str, Any]) -> bool:
    """Whether a vocabulary spells bytes by letters, and not characters with bytes for the rest."""
    return bool(byte_levels(description["pre_tokenizer"]))


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
            f"{source}: its model is {model.get('type')!r}; jaxgpt reads BPE with all bytes alone"
        )
    for name in _PLAIN:
        if model.get(name):
            raise DataError(f"{source}: its model has {name} {model[name]!r}; jaxgpt has none")
    if not (levels := byte_levels(before)) and not model.get("byte_fallback"):
        kind = before.get("type") if isinstance(before, dict) else before
        raise DataError(
            f"{source}: its pre_tokenizer is {kind!r}, without ByteLevel, and its model has no "
            "byte_fallback; jaxgpt reads BPE with all bytes alone"
        )
    vocabulary = model["vocab"]
    if not all(type(token) is int for token in vocabulary.values()):
        raise TypeError
    spellings = BYTE_OF_LETTER if levels else BYTE_TOKENS
    missing = [byte for spelt, byte in spellings.items() if spelt not in vocabulary]
    if missing:
        raise DataError(
            f"{source}: its vocabulary has no token for byte 0x{missing[0]:02X} ({len(missing)} of "
            "256 bytes missing), so it cannot encode every text"
        )
    if len(set(vocabulary.values())) != len(vocabulary):
        raise DataError(f"{source}: its vocabulary gives two tokens one id")
