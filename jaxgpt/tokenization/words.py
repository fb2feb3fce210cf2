"""The word-level teaching tokenizer: words and punctuation signs, each with an id of its own."""

import re
from collections.abc import Sequence
from pathlib import Path

from jaxgpt.errors import DataError
from jaxgpt.tokenization.vocabulary import (
    END_OF_TEXT,
    check_ids,
    fingerprint,
    to_utf8,
    write_record,
)

UNKNOWN = "<|unk|>"
_SPLIT = re.compile(r"([,.:;?_!\"()']|--|\s)")
# What is written without a space before it.
_CLOSING = frozenset(",.:;?!\"()'")


class UnknownWordError(DataError, KeyError):
    """A word outside the vocabulary, met by a tokenizer without an unknown token."""

    __str__ = DataError.__str__  # KeyError's would put the message in quotes


def split_words(text: str) -> list[str]:
    """Cut `text` into words, punctuation signs and double dashes; white space is dropped."""
    return [piece for part in _SPLIT.split(text) if (piece := part.strip())]


class WordTokenizer:
    """Ids for whole words, to see what tokens are before byte pairs come in.

    `words` get the ids 0, 1, ...; then follow `<|endoftext|>` and, if `unknown`, `<|unk|>`, which
    stands for every other word. It is lossy: spacing is not kept, and decoding follows a rule.
    Raises DataError for words that are empty or not distinct.
    """

    name: str = "words"

    def __init__(self, words: Sequence[str], *, unknown: bool = True):
        self.words = list(words)
        self._ids = {word: token for token, word in enumerate(self.words)}
        if "" in self._ids or len(self._ids) != len(self.words):
            raise DataError("the word vocabulary has an empty word or one twice; train it again")
        special = [END_OF_TEXT, UNKNOWN] if unknown else [END_OF_TEXT]
        self.special_tokens = {word: len(words) + offset for offset, word in enumerate(special)}
        self.end_of_text: int | None = self.special_tokens[END_OF_TEXT]
        self.vocab_size = len(self.words) + len(special)
        self._identity = {"kind": "words", "unknown": unknown, "words": self.words}
        self.fingerprint = fingerprint(self._identity)

    @classmethod
    def train(cls, text: str, *, unknown: bool = True) -> "WordTokenizer":
        """The tokenizer of the sorted set of words in `text`; DataError if it has none."""
        to_utf8(text)
        words = sorted(set(split_words(text)) - {END_OF_TEXT, UNKNOWN})
        if not words:
            raise DataError("there is no word in the text to train on; give a longer one")
        return cls(words, unknown=unknown)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of the words; UnknownWordError for one outside, without unknown token."""
        to_utf8(text)
        if not allow_special:
            return [self._id(word) for word in split_words(text)]
        ids = self.special_tokens
        parts = re.split(f"({'|'.join(map(re.escape, ids))})", text)
        return [
            token for part in parts for token in ([ids[part]] if part in ids else self.encode(part))
        ]

    def _id(self, word: str) -> int:
        token = self._ids.get(word, self.special_tokens.get(UNKNOWN))
        if token is None:
            raise UnknownWordError(
                f"the word {word!r} is not in the vocabulary of {len(self.words)} words; train on "
                "a text that has it, or with an unknown token"
            )
        return token

    def decode(self, tokens: Sequence[int]) -> str:
        """The words joined by spaces, with none before a closing sign such as a comma."""
        return self.decode_bytes(tokens).decode().removeprefix(" ")

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """The words in UTF-8, each after a space unless it is a closing sign; see `Tokenizer`."""
        check_ids(tokens, self.vocab_size)
        words = [*self.words, *self.special_tokens]
        pieces = (words[token] for token in tokens)
        spaced = (piece if piece[0] in _CLOSING else " " + piece for piece in pieces)
        return "".join(spaced).encode()

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, words included, to `folder`."""
        write_record(folder, {"name": self.name, "sha256": self.fingerprint} | self._identity)
