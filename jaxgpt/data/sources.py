"""Text files -> documents, in bounded memory.

Text is read as strict UTF-8 and kept exactly as it is: no newline is translated and no control
character dropped. A long document arrives in pieces, so that one file of any size can be read.
"""

import codecs
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.data.parquet import read_texts
from jaxgpt.data.paths import expand_paths
from jaxgpt.errors import DataError

PIECE = 1 << 20  # the most characters one piece of a document holds
LONGEST_LINE = 1 << 28  # bytes of one .jsonl line, which has to be parsed as a whole

_BOM = codecs.BOM_UTF8
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


def read_documents(paths: Sequence[str | Path]) -> Iterator[Document]:
    """The documents in `paths` (see `expand_paths`), one after another, in pieces of <= 1 Mi char.

    A .jsonl file holds one JSON object per line with the text under "text", a .parquet file has a
    column "text" (this needs pyarrow), and any other file is one document of plain text. Empty
    documents are left out.

    Raises:
        DataError: see `expand_paths`; text that is not UTF-8; a line or row without text.
    """
    files = expand_paths(paths)
    return (document for file in files for document in read_file(file))


def read_file(path: Path) -> Iterator[Document]:
    """The documents in one file, by its suffix; see `read_documents`."""
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    return readers.get(path.suffix.lower(), read_text)(path)


def is_plain_text(path: Path) -> bool:
    """Whether the file is one running text rather than a collection of documents."""
    return path.suffix.lower() not in (".jsonl", ".parquet")


def are_collected(files: Sequence[Path]) -> bool:
    """Whether the files are many documents, each of which ends, rather than one running text."""
    return len(files) > 1 or not is_plain_text(files[0])


def safe_cut(text: str, start: int = 0) -> int:
    """Where a piece from `start` ends in a text that has more than `PIECE` characters to go.

    That is the last place within `PIECE` characters where no token can be cut in two, before a
    space that follows a letter or a digit; where there is none, simply after `PIECE` characters.
    """
    found = _SAFE_CUT.match(text, start, start + PIECE + 1)
    return found.end() if found else start + PIECE


def read_text(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Document]:
    """Bytes `start` to `stop` of a plain text file as one document, without a byte-order mark.

    Raises:
        DataError: not UTF-8, with the offset of the first bad byte.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        head = file.read(4)
        offset = start
        if start == 0 and head.startswith(_BOM):
            warnings.warn(f"{path}: the UTF-8 byte-order mark was left out", stacklevel=2)
            offset = len(_BOM)
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
                raise _not_utf8(str(path), error, bad, head) from None
            if len(text) > PIECE:
                cut = safe_cut(text)
                yield Document(text[:cut], ends_document=False, source_bytes=read)
                text, read = text[cut:], 0
    if text:
        yield Document(text, source_bytes=read)


def _read_jsonl(path: Path) -> Iterator[Document]:
    with open(path, "rb") as file:
        head = file.read(4)
        file.seek(0)
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            where = f"{path}:{number}"
            if len(line) > LONGEST_LINE:
                raise DataError(
                    f"{where}: the line is longer than {LONGEST_LINE >> 20} MiB; split the "
                    "document, or give the text as a .txt file, which may have any length"
                )
            if number == 1 and line.startswith(_BOM):
                warnings.warn(f"{path}: the UTF-8 byte-order mark was left out", stacklevel=2)
                line = line[len(_BOM) :]
            if not line.isspace():
                yield from _pieces(_json_text(line, where, head), len(line))


def _json_text(line: bytes, where: str, head: bytes) -> str:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error, error.start, head) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f'{where}: not JSON ({error}); each line must be one object, like {{"text": "..."}}'
        ) from None
    if not isinstance(row, dict) or "text" not in row:
        found = f"the fields {sorted(row)[:5]}" if isinstance(row, dict) else type(row).__name__
        raise DataError(
            f'{where}: no field "text", but {found}; each line must be one object, '
            'like {"text": "..."}'
        )
    return _checked(row["text"], where)


def _read_parquet(path: Path) -> Iterator[Document]:
    for row, (value, source_bytes) in enumerate(read_texts(path), 1):
        yield from _pieces(_checked(value, f"{path}: row {row}"), source_bytes)


def _checked(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f'{where}: "text" must be a string, not {type(text).__name__}')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: the text has half of a surrogate pair, {text[error.start]!a}, at character "
            f"{error.start}, which is no Unicode text; remove it or write the whole pair"
        ) from None
    return text


def _pieces(text: str, source_bytes: int) -> Iterator[Document]:
    """A document that is in memory as a whole."""
    start = 0
    while len(text) - start > PIECE:
        cut = safe_cut(text, start)
        yield Document(text[start:cut], ends_document=False)
        start = cut
    if text:
        yield Document(text[start:], source_bytes=source_bytes)


def _not_utf8(where: str, error: UnicodeDecodeError, offset: int, head: bytes) -> DataError:
    hints = (hint for signature, hint in _SIGNATURES.items() if head.startswith(signature))
    bad = error.object[error.start : error.start + 1].hex()
    return DataError(f"{where}: not UTF-8 at byte {offset} (0x{bad}); {next(hints, _LATIN)}")
