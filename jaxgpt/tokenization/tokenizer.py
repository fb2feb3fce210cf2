"""Text -> token ids and back: what every tokenizer offers, and how to load one by name.

Encoding is ordinary unless asked otherwise: `<|endoftext|>` spelt out in a text is then just
characters, so that data cannot inject a special token.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxgpt.errors import DataError
from jaxgpt.tokenization.bpe_tokenizer import BPETokenizer, gpt2_tokenizer, published_tokenizer
from jaxgpt.tokenization.deferred_tokenizer import gpt2_or_deferred
from jaxgpt.tokenization.gpt2_vocabulary import gpt2_ranks, read_gpt2_file
from jaxgpt.tokenization.huggingface_folder import (
    is_description,
    is_huggingface_folder,
    read_huggingface_folder,
    read_tokenizer_file,
)
from jaxgpt.tokenization.json_tokenizer import read_json_tokenizer
from jaxgpt.tokenization.vocabulary import (
    RANKS,
    RECORD,
    check_ids,
    fingerprint,
    read_ranks,
    read_record,
    to_utf8,
    write_record,
)
from jaxgpt.tokenization.words import WordTokenizer


@runtime_checkable
class Tokenizer(Protocol):
    """What every tokenizer offers."""

    name: str
    """The published name, or the kind: "gpt2", "bytes", "bpe", "words", "huggingface"."""
    vocab_size: int
    """The number of ids V, special tokens included; every id is in [0, V)."""
    end_of_text: int | None
    """The id that ends a text, such as that of `<|endoftext|>`, or None where there is none."""
    fingerprint: str
    """A sha256 in hex; two tokenizers with the same one give the same ids for any text."""

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of `text`; with `allow_special`, a special token spelt out becomes its id.

        Raises DataError if the text has a lone surrogate.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; bytes that are no UTF-8 become U+FFFD.

        Raises DataError for an id outside [0, V).
        """
        ...

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """The exact bytes of `tokens`, which may begin or end inside a character.

        The bytes of two sequences, one after the other, are those of the sequences joined.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer to `folder`, from which `load_tokenizer` reads it offline."""
        ...


class ByteTokenizer:
    """A token for each byte of UTF-8: no vocabulary to find, and nothing it cannot encode."""

    name: str = "bytes"
    vocab_size: int = 256
    end_of_text: int | None = None
    fingerprint: str = fingerprint({"kind": "bytes"})

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The bytes of `text`; there are no special tokens to allow."""
        return list(to_utf8(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; see `Tokenizer.decode`."""
        return self.decode_bytes(tokens).decode(errors="replace")

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """The bytes themselves; see `Tokenizer.decode_bytes`."""
        check_ids(tokens, self.vocab_size)
        return bytes(tokens)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` to `folder`."""
        write_record(folder, {"name": self.name, "kind": "bytes", "sha256": self.fingerprint})


def load_tokenizer(spec: str | Path) -> Tokenizer:
    """Make the tokenizer that `spec` names.

    `spec` is "gpt2"; "bytes"; the name of another encoding of tiktoken, such as "cl100k_base"; a
    folder written by `save`; a Hugging Face folder; a `tokenizer.json` of Hugging Face's; or one of
    GPT-2's published vocabulary files. A `Path` is always a path, so a folder called gpt2 can be
    reached too. Raises DataError for nothing of the kind, a damaged file, or a vocabulary that
    cannot be fetched.
    """
    if spec == "bytes":
        return ByteTokenizer()
    if spec == "gpt2":
        return gpt2_tokenizer(gpt2_ranks())
    path = Path(spec)
    if os.path.isdir(path):  # pathlib's would raise on a name that is too long
        return _load_folder(path)
    if os.path.isfile(path):
        if path.suffix == ".json" and is_description(path):
            return read_tokenizer_file(path)
        return gpt2_tokenizer(read_gpt2_file(path))
    return published_tokenizer(str(spec))


def ends_of(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids at which a text ends: that of `end_of_text`, and others where it has some."""
    end = tokenizer.end_of_text
    return getattr(tokenizer, "ends", () if end is None else (end,))


def prefix_of(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that a text of its own begins with, which `encode` leaves out; mostly none."""
    return getattr(tokenizer, "prefix", ())


def _load_folder(folder: Path) -> Tokenizer:
    if is_huggingface_folder(folder):
        return read_huggingface_folder(folder)
    match record := read_record(folder):
        case {"kind": "bytes"}:
            tokenizer = ByteTokenizer()
        case {"kind": "gpt2"}:
            tokenizer = gpt2_or_deferred()
        case {"kind": "words", "words": list(words), "unknown": bool(unknown)} if all(
            isinstance(word, str) for word in words
        ):
            tokenizer = WordTokenizer(words, unknown=unknown)
        case {
            "kind": "bpe",
            "name": str(name),
            "pattern": str(pattern),
            "special_tokens": dict(special_tokens),
        } if all(isinstance(token, int) for token in special_tokens.values()):
            tokenizer = BPETokenizer(name, pattern, read_ranks(folder / RANKS), special_tokens)
        case {"kind": "huggingface"}:
            tokenizer = read_json_tokenizer(folder, record)
        case _:
            raise DataError(
                f"{folder / RECORD} describes no tokenizer of kind bytes, words, bpe, gpt2 or "
                "huggingface; save the tokenizer again"
            )
    if record.get("sha256") != tokenizer.fingerprint:
        raise DataError(
            f"the tokenizer in {folder} is not what was saved: its sha256 is "
            f"{tokenizer.fingerprint[:16]}…, the record says {str(record.get('sha256'))[:16]}…; "
            "save it again"
        )
    return tokenizer
