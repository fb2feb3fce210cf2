"""Added tokens: what the files beside a vocabulary say of tokens that it lacks or that are special.

Hugging Face has written them to three files in turn, of which a folder may have any.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxgpt.errors import DataError
from jaxgpt.files import read_object
from jaxgpt.tokenization.tokenizer_description import DESCRIPTION_BYTES, FLAGS, SPECIAL

ADDED, MAP, CONFIG = "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LISTED = ("additional_special_tokens", "extra_special_tokens")


def read_added_tokens(folder: Path, description: Mapping[str, Any]) -> "AddedTokens":
    """The added tokens of a vocabulary's `description` and of the files beside it.

    Raises DataError for a file that cannot be read, or that contradicts another.
    """
    config, special = read_mapping(folder / CONFIG), read_mapping(folder / MAP)
    tokens = AddedTokens(description)
    for place, token in _with_ids(folder, config):
        tokens.add(place, token)
    for place, role, content in _named(folder, special, config):
        tokens.make_special(place, role, content)
    return tokens


class AddedTokens:
    """The added tokens of a tokenizer, of which no two have one id or one spelling."""

    def __init__(self, description: Mapping[str, Any]):
        self._vocabulary: dict[str, Any] = description["model"]["vocab"]
        self._spellings = {token: letters for letters, token in self._vocabulary.items()}
        self._tokens = {token["content"]: token for token in description["added_tokens"]}
        self._spellings |= {token["id"]: content for content, token in self._tokens.items()}

    def id_of(self, content: str | None) -> int | None:
        """The id of the token so spelt, be it added or in the vocabulary."""
        if content in self._tokens:
            return self._tokens[content]["id"]
        return self._vocabulary.get(content) if content is not None else None

    def add(self, place: Path, token: Mapping[str, Any]) -> None:
        """Take a token, or what another file says of one that is there."""
        content, number = token["content"], token["id"]
        other, spelt = self.id_of(content), self._spellings.get(number, content)
        if other not in (None, number) or spelt != content:
            there = f"{content!r} has id {other}" if spelt == content else f"{spelt!r} has it"
            raise DataError(
                f"{place} gives {content!r} the id {number}, but in another file {there}; bring "
                "the files that belong together"
            )
        self._tokens[content] = self._tokens.get(content, SPECIAL | {"special": False}) | token
        self._spellings[number] = content

    def make_special(self, place: Path, role: str, content: str) -> None:
        """Mark a token by its spelling; one that has no id would get a new one elsewhere."""
        number = self.id_of(content)
        if number is None:
            raise DataError(
                f"{place} has {role} {content!r}, which no file of the folder gives an id; save "
                "the tokenizer again, or take the line out"
            )
        known = self._tokens.get(content, {"id": number, "content": content} | SPECIAL)
        self._tokens[content] = known | {"special": True}

    def sorted(self) -> list[dict[str, Any]]:
        """All of them by id, in which order the library numbers them."""
        return sorted(self._tokens.values(), key=lambda token: token["id"])


def _with_ids(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The tokens of `added_tokens.json` and of `tokenizer_config.json`, and the file of each."""
    path = folder / ADDED
    for content, number in read_mapping(path).items():
        if type(number) is not int or number < 0:
            raise DataError(f"{path} gives {content!r} the id {number!r}; it must be a number")
        yield path, {"id": number, "content": content}
    path, decoder = folder / CONFIG, config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise DataError(f"{path}: added_tokens_decoder is no mapping; save the tokenizer again")
    for number, token in decoder.items():
        is_number = number.isascii() and number.isdecimal() and len(number) < 11
        if not (is_number and isinstance(token, dict) and content_of(token)):
            raise DataError(f"{path}: added_tokens_decoder has {number!r}: {token!r}, no token")
        flags = {flag: token[flag] for flag in FLAGS if type(token.get(flag)) is bool}
        yield path, {"id": int(number), "content": content_of(token), **flags}


def _named(
    folder: Path, special: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[Path, str, str]]:
    """The file, the role and the spelling of each special token that is named."""
    for path, values in ((folder / MAP, special), (folder / CONFIG, config)):
        roles = [(role, values[role]) for role in ROLES if values.get(role) is not None]
        for role in _LISTED:
            listed = values.get(role) or []
            listed = list(listed.values()) if isinstance(listed, dict) else listed
            if not isinstance(listed, list):
                raise DataError(f"{path}: {role} is {listed!r}; it must be a list of tokens")
            roles += [(role, token) for token in listed]
        for role, token in roles:
            if not (content := content_of(token)):
                raise DataError(f"{path}: {role} is {token!r}, which is no token")
            yield path, role, content


def content_of(token: Any) -> str | None:
    """How a token is spelt, which stands there by itself or among its settings."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def read_mapping(path: Path) -> dict[str, Any]:
    """What a file of settings holds; nothing where there is none."""
    if not os.path.isfile(path):
        return {}
    # The greatest length of a text is 10^30 where a tokenizer knows of none.
    return read_object(path, limit=DESCRIPTION_BYTES, long_ints=True)
