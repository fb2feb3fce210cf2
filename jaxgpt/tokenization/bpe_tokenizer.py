"""Byte-pair encoding over bytes, run by tiktoken: GPT-2's, its successors', or one trained here."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import current_thread, main_thread

import tiktoken

from jaxgpt.errors import DataError
from jaxgpt.panics import PanicError, caught_panics
from jaxgpt.shell import command
from jaxgpt.tokenization.gpt2_vocabulary import DOWNLOAD_SECONDS, GPT2_PATTERN, within
from jaxgpt.tokenization.vocabulary import (
    END_OF_TEXT,
    PROBE,
    check_ids,
    check_ranks,
    fingerprint,
    format_ranks,
    to_utf8,
    write_record,
)

_SPACES = 50_000


class BPETokenizer:
    """Byte-pair encoding (Sennrich et al. 2016) over bytes, as in GPT-2 (Radford et al. 2019).

    `pattern` cuts the text into words; within a word, the two neighbours that join to the token of
    lowest rank are merged first. `special_tokens` maps a spelling to its id. Raises DataError for
    ranks with a gap or a missing byte, an id given twice or beyond 31 bits, an empty special token,
    or a pattern that is none or loses text.
    """

    def __init__(
        self, name: str, pattern: str, ranks: Mapping[bytes, int], special_tokens: Mapping[str, int]
    ):
        check_ranks(ranks, special_tokens, name)
        self.name = name
        self.pattern = pattern
        self.ranks = dict(ranks)
        self.special_tokens = dict(special_tokens)
        try:
            # Not get_encoding, which any plugin with a clashing name would break.
            with caught_panics():
                self._encoding = tiktoken.Encoding(
                    name,
                    pat_str=pattern,
                    mergeable_ranks=self.ranks,
                    special_tokens=self.special_tokens,
                )
        except (ValueError, OverflowError, PanicError) as error:
            raise DataError(f"tiktoken refuses the vocabulary {name!r}: {error}") from error
        self.vocab_size = self._encoding.n_vocab
        self.end_of_text = self.special_tokens.get(END_OF_TEXT)
        self._identity = {"kind": "bpe", "pattern": pattern, "special_tokens": self.special_tokens}
        self.fingerprint = fingerprint(self._identity, format_ranks(self.ranks))
        try:
            kept = self.decode_bytes(self.encode(PROBE)) == PROBE.encode()
        except DataError:
            kept = False
        if not kept:
            raise DataError(
                f"the pattern of the vocabulary {name!r}, {pattern[:60]!r}, leaves out characters "
                "or fails at them, so that text would be lost; get its files anew"
            )

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of `text`; see `Tokenizer.encode`."""
        to_utf8(text)
        if allow_special:
            encode = partial(self._encoding.encode, text, allowed_special="all")
        else:
            encode = partial(self._encoding.encode_ordinary, text)
        return _unless_panic(text, self.pattern, encode)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; see `Tokenizer.decode`."""
        return self.decode_bytes(tokens).decode(errors="replace")

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """The exact bytes of `tokens`; see `Tokenizer.decode_bytes`."""
        check_ids(tokens, self.vocab_size)
        try:
            return self._encoding.decode_bytes(tokens)
        except KeyError as error:
            raise DataError(f"{self.name} has no token with this id: {error}") from None

    def with_special_tokens(self, names: Sequence[str]) -> "BPETokenizer":
        """This tokenizer with special tokens `names`, the new ones with ids from `vocab_size` on.

        Those that it has already are kept. "gpt2" with two more is named "gpt2+2". Raises DataError
        for an empty name, or one with a lone surrogate.
        """
        new = [name for name in dict.fromkeys(names) if name not in self.special_tokens]
        if b"" in map(to_utf8, new):
            raise DataError("a special token has no characters; give it a name such as <|user|>")
        if not new:
            return self
        ids = dict(zip(new, range(self.vocab_size, self.vocab_size + len(new)), strict=True))
        return BPETokenizer(
            f"{self.name}+{len(new)}", self.pattern, self.ranks, self.special_tokens | ids
        )

    def save(self, folder: Path) -> None:
        """Write `ranks.tiktoken` and `tokenizer.json` to `folder`."""
        record = {"name": self.name, **self._identity, "sha256": self.fingerprint}
        write_record(folder, record, format_ranks(self.ranks))


def gpt2_tokenizer(ranks: Mapping[bytes, int]) -> BPETokenizer:
    """GPT-2's tokenizer, from its ranks."""
    return BPETokenizer("gpt2", GPT2_PATTERN, ranks, {END_OF_TEXT: len(ranks)})


def published_tokenizer(name: str) -> BPETokenizer:
    """One of tiktoken's other encodings, such as "cl100k_base"; downloaded at first use.

    Raises DataError if tiktoken knows no such encoding, or cannot fetch it within the deadline.
    """
    try:
        names = tiktoken.list_encoding_names()
        if name in names:
            # tiktoken downloads with no timeout of its own.
            encoding = within(DOWNLOAD_SECONDS, lambda: tiktoken.get_encoding(name))
            return BPETokenizer(
                name, encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens
            )
    except Exception as error:  # whatever a plugin of tiktoken or its download raises
        raise DataError(
            f"tiktoken cannot provide {name!r} ({type(error).__name__}: {error}); go online once, "
            "or point $TIKTOKEN_CACHE_DIR at a cache that holds it"
        ) from error
    others = ", ".join(sorted(set(names) - {"gpt2"}))
    raise DataError(
        f"no tokenizer {name!r}: it is neither a folder nor a known name; use gpt2, bytes, "
        f"{others}, or a folder written by `{command('tokenizer')}`"
    )


def _unless_panic(text: str, pattern: str, encode: Callable[[], list[int]]) -> list[int]:
    # GPT-2's own pattern gives up on nothing but white space. Elsewhere than on the main thread
    # texts are long, and progress, which is to be seen at once, is shown beside them.
    prone = pattern != GPT2_PATTERN and current_thread() is main_thread()
    try:
        with caught_panics(quiet=prone or _has_long_space(text)):
            return encode()
    except PanicError:
        raise DataError(
            "the tokenizer's pattern cannot split this text; it gives up on about a million spaces "
            "in a row, so break the run up"
        ) from None


def _has_long_space(text: str) -> bool:
    """Whether white space fills a part of the text, as it does any run of twice its length."""
    return any(
        text[start : start + _SPACES].isspace()
        for start in range(0, len(text) - _SPACES + 1, _SPACES)
    )
