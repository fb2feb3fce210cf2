"""Files of text -> documents, and which of them are for training and which for validation.

Memory is bounded but for files of records, which are read whole.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxgpt.data.parquet import read_texts
from jaxgpt.data.paths import expand_paths
from jaxgpt.data.tables import read_rows
from jaxgpt.data.text import BOM, Document, cut_up, not_utf8, read_text
from jaxgpt.errors import DataError
from jaxgpt.files import open_regular, unique_keys

LONGEST_LINE = 1 << 28  # bytes of one .jsonl line, which has to be parsed as a whole

_REACH = 1 << 16  # how far before the place asked for a text is cut at most, in bytes
_COLLECTIONS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def read_documents(paths: Sequence[str | Path], field: str = "text") -> Iterator[Document]:
    """The documents in `paths` (see `expand_paths`), one after another, in pieces of <= 1 Mi char.

    A .jsonl, .json, .csv or .tsv file holds records (see `tables`) with the text under `field`, a
    .parquet file has a column of that name (this needs pyarrow), and any other file is one document
    of plain text. Empty documents are left out, with a warning that counts them. Raises DataError
    as `expand_paths` does, and for text that is not UTF-8, or a line or row without text.
    """
    files = expand_paths(paths)
    return (document for file in files for document in read_file(file, field))


def read_file(path: Path, field: str = "text") -> Iterator[Document]:
    """The documents in one file, by its suffix; see `read_documents`."""
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if is_plain_text(path):
        yield from read_text(path)
        return
    empty = 0
    for text, source_bytes in readers.get(path.suffix.lower(), _read_table)(path, field):
        for piece, last in cut_up(text) if text else ():
            yield Document(piece, last, source_bytes if last else 0)
        empty += not text
    if empty:
        warnings.warn(f"{path}: {empty:,} empty documents were left out", stacklevel=2)


def is_plain_text(path: Path) -> bool:
    """Whether the file is one running text rather than a collection of documents."""
    return path.suffix.lower() not in _COLLECTIONS


def are_collected(files: Sequence[Path]) -> bool:
    """Whether the files are many documents, each of which ends, rather than one running text."""
    return len(files) > 1 or not is_plain_text(files[0])


def label_documents(
    files: Sequence[Path], fraction: float, field: str = "text", held_out: Sequence[Path] = ()
) -> Iterator[tuple[str, Document]]:
    """The documents in `files`, each with "train" or "validation"; a `fraction` of them the latter.

    Plain text files count as one long text, whose end is held out: the file that holds the border
    is cut in two, at the end of a line or word nearby. From the other files documents are held out
    by a hash of their text, so that copies of one document never fall on both sides. Where there
    are files `held_out`, all of those are for validation, and all `files` for training.
    """
    if held_out:
        for split, paths in (("train", files), ("validation", held_out)):
            yield from ((split, item) for path in paths for item in read_file(path, field))
        return
    total = sum(file.stat().st_size for file in files if is_plain_text(file))
    left = int(total * (1 - fraction))  # bytes of plain text still to come for training
    reach = min(_REACH, min(left, total - left) // 10)
    for file in files:
        if is_plain_text(file):
            size = file.stat().st_size
            cut = _cut_before(file, left, reach) if 0 < left < size else min(left, size)
            left = max(0, left - size)
            if cut > 0:
                yield from (("train", document) for document in read_text(file, 0, cut))
            if cut < size:
                yield from (("validation", document) for document in read_text(file, cut))
        else:
            yield from _by_hash(file, fraction, field)


def _by_hash(file: Path, fraction: float, field: str) -> Iterator[tuple[str, Document]]:
    split = None
    for document in read_file(file, field):
        if split is None:  # the first piece decides for the whole document
            digest = hashlib.blake2b(document.text.encode(), digest_size=8).digest()
            held_out = int.from_bytes(digest, "little") < fraction * 2**64
            split = "validation" if held_out else "train"
        yield split, document
        if document.ends_document:
            split = None


def _cut_before(file: Path, place: int, reach: int) -> int:
    """The last line's end in the `reach` bytes before `place`, else word's end, else `place`.

    The last of these moves back to the first byte of a character.
    """
    start = max(0, place - max(reach, 3))
    with open(file, "rb") as content:
        content.seek(start)
        window = content.read(place - start + 1)
    before = window[:-1][-reach:] if reach else b""
    if (newline := before.rfind(b"\n")) >= 0:
        return place - len(before) + newline + 1
    if (space := before.rfind(b" ")) > 0:
        return place - len(before) + space
    while start < place and window[place - start] & 0b1100_0000 == 0b1000_0000:
        place -= 1
    return place


def _read_jsonl(path: Path, field: str) -> Iterator[tuple[str, int]]:
    with open_regular(path) as file:
        head = file.read(4)
        file.seek(0)
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            where = f"{path}:{number}"
            if len(line) > LONGEST_LINE:
                raise DataError(
                    f"{where}: the line is longer than {LONGEST_LINE >> 20} MiB; split the "
                    "document, or give the text as a .txt file, which may have any length"
                )
            if number == 1 and line.startswith(BOM):
                warnings.warn(f"{path}: the UTF-8 byte-order mark was left out", stacklevel=2)
                line = line[len(BOM) :]
            if not line.isspace():
                yield _json_text(line, where, head, field), len(line)


def _json_text(line: bytes, where: str, head: bytes, field: str) -> str:
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise not_utf8(where, error, error.start, head) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f'{where}: not JSON ({error}); each line must be one object, like {{"text": "..."}}'
        ) from None
    if not isinstance(row, dict):
        raise DataError(
            f'{where}: no field "{field}", but {type(row).__name__}; each line must be one object, '
            'like {"text": "..."}'
        )
    return _field(row, field, where)


def _read_table(path: Path, field: str) -> Iterator[tuple[str, int]]:
    for row, where in read_rows(path, field):
        text = _field(row, field, where)
        yield text, len(text.encode())


def _read_parquet(path: Path, field: str) -> Iterator[tuple[str, int]]:
    for row, (value, source_bytes) in enumerate(read_texts(path, field), 1):
        yield _checked(value, f"{path}: row {row}", field), source_bytes


def _field(row: dict[str, object], field: str, where: str) -> str:
    if field not in row:
        raise DataError(
            f'{where}: no field "{field}", but the fields {sorted(row)[:5]}; each record needs '
            "one, name it with --text-field"
        )
    return _checked(row[field], where, field)


def _checked(text: object, where: str, field: str) -> str:
    if not isinstance(text, str):
        raise DataError(f'{where}: "{field}" must be a string, not {type(text).__name__}')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: the text has half of a surrogate pair, {text[error.start]!a}, at character "
            f"{error.start}, which is no Unicode text; remove it or write the whole pair"
        ) from None
    return text
