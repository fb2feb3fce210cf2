"""What the tokenizers share: checked text and ids, a fingerprint, and their files on disk."""

import base64
import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from jaxgpt.errors import DataError
from jaxgpt.files import read_object, read_regular, sha256, write_file

END_OF_TEXT = "<|endoftext|>"
# Of each kind of character some, alone and in runs, to see whether a tokenizer keeps them all.
PROBE = "".join(
    (
        *map(chr, range(0x250)),
        *(chr(code) for code in range(0x250, 0xD800, 97)),
        *(chr(code) for code in range(0xE000, 0x30000, 331)),
        " I'll we've don't IT'S x1y22z333 1234567 0.5 a_b __init__ --- ... ?! $3.50 50%\n\n\n  \n",
        "\r\n\t\tend \u00a0\u3000 Ünïcödé Привет мир, 你好世界。こんにちは 안녕하세요",
        " नमस्ते مرحبا שלום ไทย",
        " 😀👨‍👩‍👧🏽🇫🇷 e\u0301 \u200b\ufeff\ufffd\U0010ffff \x00\x1b[31m <|endoftext|>   ",
    )
)
RECORD = "tokenizer.json"
RANKS = "ranks.tiktoken"
MAX_BYTES = 1 << 28
"""The most that a file of ranks, or a record, may have."""


def to_utf8(text: str) -> bytes:
    """`text` as UTF-8; raises DataError for a lone surrogate, half of a pair of UTF-16."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text has the lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}; remove it, or read the text again with the right encoding"
        ) from None


def check_ids(tokens: Sequence[int], vocab_size: int) -> None:
    """Raise DataError for the first id outside [0, vocab_size)."""
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocab_size:
        position, bad = next((i, t) for i, t in enumerate(tokens) if not 0 <= t < vocab_size)
        raise DataError(
            f"token id {bad} at position {position} is outside [0, {vocab_size}); "
            "decode with the tokenizer that made the ids"
        )


def format_ranks(ranks: Mapping[bytes, int]) -> bytes:
    """The `.tiktoken` form of a vocabulary: a line `base64(token) rank` each, in rank order."""
    ordered = sorted(ranks.items(), key=itemgetter(1))
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ordered)


def parse_ranks(content: bytes, source: str = RANKS) -> dict[bytes, int]:
    """Read the `.tiktoken` form of a vocabulary; `source` names it in a complaint.

    Raises DataError for a line that is not `base64(token) rank`, or a token given twice.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            encoded, rank = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(rank)
        except ValueError:
            raise DataError(
                f"{source}, line {number}: {line[:60]!r} is not a base64 token and its rank; "
                "the file is damaged, save the tokenizer again"
            ) from None
        if token in ranks:
            raise DataError(f"{source}, line {number}: the token {token!r} is given twice")
        ranks[token] = rank
    return ranks


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a `.tiktoken` file; raises DataError if it is unreadable, and as `parse_ranks` does."""
    return parse_ranks(read_regular(path, limit=MAX_BYTES), str(path))


def check_ranks(ranks: Mapping[bytes, int], special_tokens: Mapping[str, int], name: str) -> None:
    """Raise DataError unless all 256 bytes have a rank and ids are dense and given once.

    Special tokens may lie anywhere from 0 up; a rank is missing only where one takes its place.
    """
    if "" in special_tokens:
        raise DataError(
            f"the vocabulary {name!r} has a special token without characters; give it a name such "
            "as <|user|>, or remove it"
        )
    beyond = [token for token in special_tokens.values() if token >= 1 << 31]
    if beyond:
        raise DataError(
            f"the vocabulary {name!r} has the id {str(beyond[0])[:20]}; ids must be below 2^31"
        )
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise DataError(
            f"the vocabulary {name!r} has no token for byte 0x{missing[0]:02X} ({len(missing)} of "
            "256 bytes missing), so it cannot encode every text"
        )
    highest = max(ranks.values())
    inside = [token for token in special_tokens.values() if token <= highest]
    for expected, token in enumerate(sorted([*ranks.values(), *inside])):
        if token != expected:
            raise DataError(
                f"the vocabulary {name!r} has id {token} where {expected} is due; "
                "ids must run up from 0, each given once"
            )
    if len(set(special_tokens.values())) != len(special_tokens):
        raise DataError(f"the vocabulary {name!r} gives two special tokens one id")


def fingerprint(identity: Mapping[str, Any], vocabulary: bytes = b"") -> str:
    """The sha256, in hex, over everything that decides which ids a text becomes."""
    header = json.dumps(identity, sort_keys=True).encode()
    return sha256(header + b"\n" + vocabulary)


def write_record(folder: Path, record: Mapping[str, Any], ranks: bytes | None = None) -> None:
    """Write a tokenizer's folder: the rank lines, if any, and last the JSON record."""
    folder.mkdir(parents=True, exist_ok=True)
    if ranks is not None:
        write_file(folder / RANKS, ranks)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_file(folder / RECORD, text.encode())


def read_record(folder: Path) -> dict[str, Any]:
    """The JSON record in a tokenizer's folder; raises DataError for no file or no JSON object."""
    try:
        return read_object(folder / RECORD, limit=MAX_BYTES)
    except DataError as error:
        raise DataError(f"{error}; save the tokenizer again") from None
