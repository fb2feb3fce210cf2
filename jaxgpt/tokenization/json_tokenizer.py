"""BPE with all bytes as a `tokenizer.json` describes it, run by the library tokenizers."""

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

from tokenizers import Tokenizer as Backend

from jaxgpt.errors import DataError
from jaxgpt.files import read_json, read_regular, write_file
from jaxgpt.panics import PanicError, caught_panics
from jaxgpt.tokenization.gpt2_vocabulary import BYTE_OF_LETTER
from jaxgpt.tokenization.tokenizer_description import (
    BYTE_TOKENS,
    DESCRIPTION_BYTES,
    SPACE,
    SPECIAL,
    bound_tokens,
    is_byte_level,
    normal_form,
    respelt,
)
from jaxgpt.tokenization.vocabulary import RECORD, check_ids, fingerprint, to_utf8, write_record

DESCRIPTION = "huggingface.json"
SECRET = secrets.token_hex(8)
"""What no text holds, as it is drawn anew in each process."""
_KEPT = "huggingface."
PROBE = (
    "I'll say: \"It's 1,234.5\" \n\n\tdéjà vu — Привет, 世界!  नमस्ते 🙂\r\n"
    "  x = y2 + 0x3F;   end \x00"
)
"""A text with a bit of everything, which a tokenizer that keeps texts whole gives back."""


class JsonTokenizer:
    """A tokenizer of Hugging Face's: BPE with all bytes, added tokens, and a normalizer if any.

    `description` is what a `tokenizer.json` holds, `source` names it in a complaint. A text ends at
    any of the ids `ends`; `begin_of_text` and `padding` are kept for who reads the model elsewhere.
    Each text of its own begins with the ids `prefix`, those of the post_processor, which `encode`
    leaves to the caller. `files` are those that it was read from, by name, kept as they are.

    Raises:
        DataError: another kind of vocabulary, one that loses text or adds to it, or an id of `ends`
            that no token has.
    """

    name: str = "huggingface"

    def __init__(
        self,
        description: Mapping[str, Any],
        *,
        ends: Sequence[int] = (),
        begin_of_text: int | None = None,
        padding: int | None = None,
        files: Mapping[str, bytes] | None = None,
        source: str | Path = DESCRIPTION,
    ):
        self.description = normal_form(description, source)
        self.ends = tuple(ends)
        self.end_of_text = self.ends[0] if self.ends else None
        self.begin_of_text, self.padding = begin_of_text, padding
        special = [token for token in self.description["added_tokens"] if token["special"]]
        self.special_tokens: dict[str, int] = {token["content"]: token["id"] for token in special}
        # By ignore_merges a word that is spelt as a token becomes it.
        shortcut = self.description["model"].get("ignore_merges")
        self._spelt = self.hidden(self.special_tokens) if shortcut else {}
        ordinary = respelt(self.description, self._spelt) if shortcut else self.description
        self._ordinary = _build(ordinary, source)
        self._ordinary.encode_special_tokens = True
        self._bytes = _token_bytes(self.description)
        self.vocab_size = max(self._bytes) + 1
        self.prefix = self._processed(source)
        self.files = dict(files or {})
        self._check_added(source)
        self._check_roles(source)
        self._check_texts(source)
        self._identity = {
            "kind": "huggingface",
            "eos_token_id": list(self.ends),
            "bos_token_id": begin_of_text,
            "pad_token_id": padding,
        }
        canonical = json.dumps(self.description, sort_keys=True, ensure_ascii=False).encode()
        self.fingerprint = fingerprint(self._identity, canonical)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of `text`; see `Tokenizer.encode`.

        An added token that is not special is found in any text.
        """
        return _encode(self._allowing_special if allow_special else self._ordinary, text)

    @cached_property
    def _allowing_special(self) -> Backend:
        return _build(self.description, DESCRIPTION)

    def hidden(self, names: Iterable[str]) -> dict[str, str]:
        """A spelling that no text has for each of the added tokens that no other text becomes."""
        free = [name for name in names if name not in self._bound]
        return {name: f"{SECRET}{number}." for number, name in enumerate(free)}

    @cached_property
    def _bound(self) -> set[str]:
        return bound_tokens(self.description)

    def encoder(self, hidden: Mapping[str, str]) -> Callable[[str], list[int]]:
        """`encode` for texts in which special tokens are spelt as `hidden` says, and only so."""
        return partial(_encode, _build(respelt(self.description, hidden), DESCRIPTION))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; see `Tokenizer.decode`."""
        return self.decode_bytes(tokens).decode(errors="replace")

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """The exact bytes of `tokens`; see `Tokenizer.decode_bytes`."""
        check_ids(tokens, self.vocab_size)
        try:
            return b"".join(self._bytes[token] for token in tokens)
        except KeyError as error:
            raise DataError(f"{self.name} has no token with this id: {error}") from None

    def with_special_tokens(self, names: Sequence[str]) -> "JsonTokenizer":
        """This tokenizer with special tokens `names`, the new ones with ids from `vocab_size` on.

        Those that it has already keep their ids.

        Raises:
            DataError: an empty name, or one with a lone surrogate.
        """
        if b"" in map(to_utf8, names):
            raise DataError("a special token has no characters; give it a name such as <|user|>")
        added = {token["content"]: token for token in self.description["added_tokens"]}
        vocabulary, size = self.description["model"]["vocab"], self.vocab_size
        for name in names:
            if name not in added:
                token = vocabulary.get(name, size)
                added[name] = {"id": token, "content": name} | SPECIAL
                size = max(size, token + 1)
            added[name] = added[name] | {"special": True}
        tokens = sorted(added.values(), key=lambda token: token["id"])
        return JsonTokenizer(
            self.description | {"added_tokens": tokens},
            ends=self.ends,
            begin_of_text=self.begin_of_text,
            padding=self.padding,
            files={name: self.files[name] for name in self.files if name != RECORD},
        )

    def save(self, folder: Path) -> None:
        """Write `huggingface.json`, which is a `tokenizer.json` of Hugging Face's, and a record.

        Each file that it was read from goes beside, as `huggingface.NAME`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in self.files.items():
            write_file(folder / f"{_KEPT}{name}", file)
        content = json.dumps(self.description, ensure_ascii=False) + "\n"
        write_file(folder / DESCRIPTION, content)
        record = {"name": self.name, **self._identity, "sha256": self.fingerprint}
        write_record(folder, record)

    def _check_added(self, source: str | Path) -> None:
        for token in self.description["added_tokens"]:
            content: str = token["content"]
            found = self._ordinary.token_to_id(self._spelt.get(content, content))
            if found != token["id"] or not token["content"]:
                raise DataError(
                    f"{source}: the added token {token['content']!r} has id {token['id']}, but the "
                    f"library tokenizers gives it {found}; ids of added tokens follow the "
                    "vocabulary's without a gap"
                )

    def _check_roles(self, source: str | Path) -> None:
        roles = [("eos_token_id", end) for end in self.ends]
        roles += [("bos_token_id", self.begin_of_text), ("pad_token_id", self.padding)]
        roles += [("the token before a text", token) for token in self.prefix]
        for role, token in roles:
            if token is not None and token not in self._bytes:
                raise DataError(
                    f"{source}: {role} is {token}, which no token has; the tokenizer has "
                    f"{self.vocab_size:,} ids, so bring the one that belongs to the model"
                )

    def _processed(self, source: str | Path) -> tuple[int, ...]:
        """The ids that the post_processor puts before a text; it may put none elsewhere."""
        adds = self._ordinary.num_special_tokens_to_add(False)
        whole, own = (_encode(self._ordinary, "a", whole=whole) for whole in (True, False))
        if whole[adds:] != own:
            kind = (self.description["post_processor"] or {}).get("type")
            raise DataError(
                f"{source}: its post_processor, {kind}, adds {adds} token(s) to every text, not "
                "all before it, which jaxgpt does not; take it out of the file, or name another by "
                "--tokenizer"
            )
        return tuple(whole[:adds])

    def _check_texts(self, source: str | Path) -> None:
        """Refuse a tokenizer that does not keep a text whole."""
        normalizer = self._ordinary.normalizer
        text = normalizer.normalize_str(PROBE) if normalizer else PROBE
        if not is_byte_level(self.description):
            text = text.replace(SPACE, " ")
        found = self.decode(self.encode(PROBE))
        if found not in (text, " " + text):
            raise DataError(
                f"{source}: it does not give a text back: {text!r} becomes {found!r}; its "
                "pre_tokenizer leaves text out or changes it"
            )


def read_json_tokenizer(folder: Path, record: Mapping[str, Any]) -> JsonTokenizer:
    """What `JsonTokenizer.save` wrote to `folder`, beside the record.

    Raises:
        DataError: the files are damaged.
    """
    roles = [record.get(name) for name in ("bos_token_id", "pad_token_id")]
    ends = record.get("eos_token_id")
    odd = set(map(type, roles)) - {int, type(None)}
    if odd or not isinstance(ends, list) or set(map(type, ends)) - {int}:
        raise DataError(f"the record in {folder} has no ids of its tokens; save it again")
    path = folder / DESCRIPTION
    files = sorted(set(folder.glob(f"{_KEPT}*")) - {path})
    return JsonTokenizer(
        read_json(path, limit=DESCRIPTION_BYTES),
        ends=ends,
        begin_of_text=roles[0],
        padding=roles[1],
        files={
            file.name.removeprefix(_KEPT): read_regular(file, limit=DESCRIPTION_BYTES)
            for file in files
        },
        source=path,
    )


def _build(description: Mapping[str, Any], source: str | Path) -> Backend:
    try:
        with caught_panics():
            return Backend.from_str(json.dumps(description))
    except (PanicError, Exception) as error:  # the library raises no class of its own
        raise DataError(f"{source}: the library tokenizers refuses it: {error}") from None


def _encode(backend: Backend, text: str, *, whole: bool = False) -> list[int]:
    """The ids of a text, as a `whole` one with what the post_processor adds."""
    to_utf8(text)
    try:
        # On other threads texts are long, and progress, to be seen at once, is shown beside.
        with caught_panics(quiet=current_thread() is main_thread()):
            return backend.encode(text, add_special_tokens=whole).ids
    except (PanicError, Exception) as error:  # the library raises no class of its own
        raise DataError(f"the tokenizer cannot encode this text: {error}") from None


def _token_bytes(description: Mapping[str, Any]) -> dict[int, bytes]:
    """What each id spells: an added token its content, another the bytes of its letters."""
    vocabulary = description["model"]["vocab"]
    added = {token["id"]: token["content"] for token in description["added_tokens"]}
    if not is_byte_level(description):
        spelt_in = {token: spelt for spelt, token in vocabulary.items()} | added
        found = {token: spelt.replace(SPACE, " ").encode() for token, spelt in spelt_in.items()}
        return found | {vocabulary[spelt]: bytes([byte]) for spelt, byte in BYTE_TOKENS.items()}
    byte, letters = BYTE_OF_LETTER.__getitem__, BYTE_OF_LETTER.keys()
    # One that is spelt in anything else is added, or is none that a text becomes.
    found = {
        token: bytes(map(byte, spelt)) if letters >= set(spelt) else spelt.encode()
        for spelt, token in vocabulary.items()
    }
    return found | {token: content.encode() for token, content in added.items()}
