"""Files of text -> documents, in bounded memory but for files of records, which are read whole."""

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxgpt.data.parquet import read_texts
from jaxgpt.data.paths import expand_paths
from jaxgpt.data.tables import read_rows
from jaxgpt.data.text import BOM, Document, not_utf8, pieces, read_text
from jaxgpt.errors import DataError
from jaxgpt.files import open_regular, unique_keys

LONGEST_LINE = 1 << 28  # bytes of one .jsonl line, which has to be parsed as a whole

_COLLECTIONS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def read_documents(paths: Sequence[str | Path], field: str = "text") -> Iterator[Document]:
    """The documents in `paths` (see `expand_paths`), one after another, in pieces of <= 1 Mi char.

    A .jsonl, .json, .csv or .tsv file holds records (see `tables`) with the text under `field`, a
    .parquet file has a column of that name (this needs pyarrow), and any other file is one document
    of plain text. Empty documents are left out, with a warning that counts them.

    Raises:
        DataError: see `expand_paths`; text that is not UTF-8; a line or row without text.
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
        if text:
            yield from pieces(text, source_bytes)
        empty += not text
    if empty:
        warnings.warn(f"{path}: {empty:,} empty documents were left out", stacklevel=2)


def is_plain_text(path: Path) -> bool:
    """Whether the file is one running text rather than a collection of documents."""
    return path.suffix.lower() not in _COLLECTIONS


def are_collected(files: Sequence[Path]) -> bool:
    """Whether the files are many documents, each of which ends, rather than one running text."""
    return len(files) > 1 or not is_plain_text(files[0])


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
