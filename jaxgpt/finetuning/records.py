"""Files of records -> their fields, each with the place where it stands, for complaints to name."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.data.paths import expand_paths
from jaxgpt.data.sources import read_text
from jaxgpt.data.vocabulary import to_utf8
from jaxgpt.errors import DataError

_SUFFIXES = ".json (a list of objects), .jsonl (an object a line), .csv (with a header) or .tsv"


class EmptyRecordError(DataError):
    """A record of the right form from which nothing can be learnt, such as one without a text.

    `usable` leaves it out, where any other DataError stops a file.
    """

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}; fill it in or remove the record")
        self.brief = f"{where}: {what}"


@dataclass(frozen=True)
class Record:
    """One record: its fields, and the file and line (or number) that it was read from."""

    fields: dict[str, Any]
    where: str

    def text(self, name: str, *, required: bool = True) -> str:
        """The field `name`; one that is not required may be missing, null or empty ("").

        Raises:
            EmptyRecordError: a required field that is null or blank.
            DataError: one that is missing, no string, or no Unicode text.
        """
        value = self.fields.get(name)
        if name not in self.fields and required:
            found = ", ".join(map(str, list(self.fields)[:5])) or "none"
            raise DataError(f'{self.where}: no field "{name}"; the fields are {found}')
        if value is None and not required:
            return ""
        if value is None:
            raise EmptyRecordError(self.where, f'"{name}" is null')
        if not isinstance(value, str):
            kind = type(value).__name__
            raise DataError(f'{self.where}: "{name}" must be a string, not {kind}')
        if required and not value.strip():
            raise EmptyRecordError(self.where, f'"{name}" is empty')
        try:
            to_utf8(value)
        except DataError as error:
            raise DataError(f'{self.where}: "{name}": {error}') from None
        return value


def read_records(paths: Sequence[str | Path]) -> list[Record]:
    """The records in `paths` (see `expand_paths`), by each file's suffix.

    .json holds a list of objects, .jsonl one object a line, .csv a line of names first, and .tsv or
    .txt a label, a tab and a text a line, with no quoting.

    Raises:
        DataError: a file that cannot be read, is not what its suffix says, or has no record; a line
            that is malformed, by its number.
    """
    records = []
    for path in expand_paths(paths):
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise DataError(f"{path}: the suffix must be {_SUFFIXES}; rename or convert it")
        text = "".join(piece.text for piece in read_text(path))
        found = list(reader(text, path))
        if not found:
            raise DataError(f"{path}: the file has no record; give another")
        records += found
    return records


def _read_json(text: str, path: Path) -> Iterator[Record]:
    rows = _parse(text, str(path), "if it has an object a line, give it the suffix .jsonl")
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds one {type(rows).__name__}; it must be a list of objects")
    for number, row in enumerate(rows, 1):
        yield _record(row, f"{path}: record {number}")


def _read_jsonl(text: str, path: Path) -> Iterator[Record]:
    # Not splitlines(), which also cuts at characters that JSON allows within a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            yield _record(_parse(line, where, "each line must be one object"), where)


def _parse(text: str, where: str, hint: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); {hint}") from None


def _record(row: Any, where: str) -> Record:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a {type(row).__name__}; each record must be one object")
    return Record(row, where)


def _read_csv(text: str, path: Path) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    line = 1  # where a row begins, which may go on for many lines
    try:
        for row in reader:
            if row and names is None:
                names = [name.strip().lower() for name in row]
            elif row and names is not None:
                if len(row) != len(names):
                    raise DataError(
                        f"{path}:{line}: {len(row)} fields, where the first line names "
                        f"{len(names)}; quote a text that has commas in it"
                    )
                yield Record(dict(zip(names, row, strict=True)), f"{path}:{line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not CSV ({error})") from None


def _read_tsv(text: str, path: Path) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line.strip():
            label, tab, rest = line.partition("\t")
            if not tab:
                raise DataError(f"{path}:{number}: no tab; a line is a label, a tab and a text")
            yield Record({"label": label, "text": rest}, f"{path}:{number}")


_READERS = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_tsv,
}
