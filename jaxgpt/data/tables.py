"""The rows of files of records: .json, .jsonl, .csv and .tsv -> fields, and where they stand.

.json holds a list of objects, .jsonl an object a line, .csv a line of names first. A .tsv has no
quoting; its first line may be names, else a line is a label, a tab and a text.
"""

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from jaxgpt.data.text import read_text
from jaxgpt.errors import DataError
from jaxgpt.files import unique_keys

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")

Row = tuple[dict[str, Any], str]
"""The fields of a record, and the file and the line (or number) that it was read from."""

_MOST_BYTES = 1 << 30  # of a file, which is read whole
# Names by which the first line of a .tsv is known to be no record.
_NAMES = frozenset(
    ("label", "text", "instruction", "input", "output", "prompt", "chosen", "rejected", "answer")
)


def read_rows(path: Path, name: str = "text") -> Iterator[Row]:
    """The rows of one file, by its suffix; `name` is a field to expect.

    Raises DataError for what is not UTF-8, not what the suffix says, has a field that is named
    twice, or more than 1 GiB; malformed lines are named by their number.
    """
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise DataError(
            f"{path} has {size:,} bytes; at most {_MOST_BYTES:,} are read of a file of records, "
            "cut it in several"
        )
    text = "".join(piece.text for piece in read_text(path))
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv}
    yield from readers.get(path.suffix.lower(), partial(_read_tsv, name=name))(text, path)


def _read_json(text: str, path: Path) -> Iterator[Row]:
    rows = _parse(text, str(path), "if it has an object a line, give it the suffix .jsonl")
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds one {type(rows).__name__}; it must be a list of objects")
    for number, row in enumerate(rows, 1):
        yield _record(row, f"{path}: record {number}")


def _read_jsonl(text: str, path: Path) -> Iterator[Row]:
    # Not splitlines(), which also cuts at characters that JSON allows within a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            yield _record(_parse(line, where, "each line must be one object"), where)


def _parse(text: str, where: str, hint: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); {hint}") from None


def _record(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a {type(row).__name__}; each record must be one object")
    return row, where


def _read_csv(text: str, path: Path) -> Iterator[Row]:
    # The module's own limit of 131,072 characters is for all readers of a process.
    csv.field_size_limit(max(csv.field_size_limit(), _MOST_BYTES))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    line = 1  # where a row begins, which may go on for many lines
    try:
        for row in reader:
            if row and names is None:
                names = _names(row, f"{path}:{line}")
            elif row and names is not None:
                yield _named(names, row, f"{path}:{line}", "quote a text that has commas in it")
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not CSV ({error})") from None


def _read_tsv(text: str, path: Path, name: str) -> Iterator[Row]:
    names: list[str] | None = None
    first = True
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        where = f"{path}:{number}"
        cells = line.split("\t")
        found = {cell.strip().lower() for cell in cells}
        if first and len(cells) > 1 and (found <= _NAMES or name.lower() in found):
            names = _names(cells, where)
        elif names is not None and names != ["label", "text"]:
            yield _named(names, cells, where, "a text must not have tabs in it")
        elif len(cells) > 1:
            yield {"label": cells[0], "text": "\t".join(cells[1:])}, where
        else:
            raise DataError(f"{where}: no tab; a line is a label, a tab and a text")
        first = False


def _names(row: list[str], where: str) -> list[str]:
    names = [name.strip().lower() for name in row]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{where}: the column {twice[0]!r} is named twice; name or remove one")
    return names


def _named(names: list[str], row: list[str], where: str, hint: str) -> Row:
    if len(row) != len(names):
        raise DataError(
            f"{where}: {len(row)} fields, where the first line names {len(names)}; {hint}"
        )
    return dict(zip(names, row, strict=True)), where
