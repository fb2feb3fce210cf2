"""Plain text files -> documents, in pieces of bounded size.

Text is read as strict UTF-8 and kept exactly as it is: no newline is translated and no control
character dropped. A long document arrives in pieces, so that one file of any size can be read.
"""

import codecs
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.errors import DataError
from jaxgpt.files import open_regular

PIECE = 1 << 20  # the most characters one piece of a document holds
BOM = codecs.BOM_UTF8

# Ordered: the mark of UTF-32 begins with that of UTF-16.
_SIGNATURES = {
    codecs.BOM_UTF32_LE: "it looks like UTF-32; convert it with `iconv -f UTF-32 -t UTF-8`",
    codecs.BOM_UTF16_LE: "it looks like UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`",
    codecs.BOM_UTF16_BE: "it looks like UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`",
    b"\x1f\x8b": "it looks gzip-compressed; unpack it with `gunzip`",
    b"\x28\xb5\x2f\xfd": "it looks zstd-compressed; unpack it with `unzstd`",
    b"PK\x03\x04": "it looks like a zip archive; unpack it with `unzip`",
    b"PAR1": "it looks like Parquet; give it the suffix .parquet",
}
_LATIN = "if it is Latin-1, convert it with `iconv -f LATIN1 -t UTF-8`"
# A word's last letter or digit before a space. Every GPT-style pre-tokenizer starts a new word at
# such a space, so a cut there never changes the tokens.
_SAFE_CUT = re.compile(r".*[^\W_](?= )", re.DOTALL)


@dataclass(frozen=True)
class Document:
    """A document, or a piece of one; the pieces of one document follow one another.

    `source_bytes` counts what was read from the source for this piece, and `entropy_bits` is the
    information content of the text where whoever wrote it knows it.
    """

    text: str
    ends_document: bool = True
    source_bytes: int = 0
    entropy_bits: float | None = None


def safe_cut(text: str, start: int = 0) -> int:
    """Where a piece from `start` ends in a text that has more than `PIECE` characters to go.

    That is the last place within `PIECE` characters where no token can be cut in two, before a
    space that follows a letter or a digit; where there is none, simply after `PIECE` characters.
    """
    found = _SAFE_CUT.match(text, start, start + PIECE + 1)
    return found.end() if found else start + PIECE


def read_text(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Document]:
    """Bytes `start` to `stop` of a plain text file as one document, without a byte-order mark.

    Raises DataError, with the offset of the first bad byte, if it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_regular(path) as file:
        head = file.read(4)
        offset = start
        if start == 0 and head.startswith(BOM):
            warnings.warn(f"{path}: the UTF-8 byte-order mark was left out", stacklevel=2)
            offset = len(BOM)
        file.seek(offset)
        stop = os.fstat(file.fileno()).st_size if stop is None else stop
        text, read = "", offset - start
        while block := file.read(min(PIECE, stop - offset)):
            offset += len(block)
            read += len(block)
            try:
                text += decoder.decode(block, final=offset == stop)
            except UnicodeDecodeError as error:
                bad = offset - len(error.object) + error.start
                raise not_utf8(str(path), error, bad, head) from None
            if len(text) > PIECE:
                cut = safe_cut(text)
                yield Document(text[:cut], ends_document=False, source_bytes=read)
                text, read = text[cut:], 0
    if text:
        yield Document(text, source_bytes=read)


def cut_up(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces of at most `PIECE` characters, each with whether it is the last."""
    start = 0
    while len(text) - start > PIECE:
        cut = safe_cut(text, start)
        yield text[start:cut], False
        start = cut
    yield text[start:], True


def not_utf8(where: str, error: UnicodeDecodeError, offset: int, head: bytes) -> DataError:
    """The complaint about a text, with what to do about it."""
    hints = (hint for signature, hint in _SIGNATURES.items() if head.startswith(signature))
    bad = error.object[error.start : error.start + 1].hex()
    return DataError(f"{where}: not UTF-8 at byte {offset} (0x{bad}); {next(hints, _LATIN)}")
