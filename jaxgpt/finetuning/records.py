"""Files of records -> their fields, with the place of each; those with nothing in are left out."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jaxgpt.data.paths import expand_paths
from jaxgpt.data.tables import SUFFIXES, read_rows
from jaxgpt.errors import DataError
from jaxgpt.tokenization.vocabulary import to_utf8

Item = TypeVar("Item")
Parsed = TypeVar("Parsed")

RECORD_SUFFIXES = (*SUFFIXES, ".txt")
_SUFFIXES = ".json (a list of objects), .jsonl (an object a line), .csv (with a header) or .tsv"
_NAMED = 3  # of the records left out, in the warning


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

        Raises EmptyRecordError for a required field that is null or blank; DataError for one that
        is missing, no string, or no Unicode text.
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
    """The records in `paths` (see `expand_paths`), by each file's suffix (see `tables`).

    A .txt is read as a .tsv is. Raises DataError for a file that cannot be read, is not what its
    suffix says, or has no record, and for a line that is malformed, by its number.
    """
    records = []
    for path in expand_paths(paths, RECORD_SUFFIXES):
        if path.suffix.lower() not in RECORD_SUFFIXES:
            raise DataError(f"{path}: the suffix must be {_SUFFIXES}; rename or convert it")
        found = [Record(fields, where) for fields, where in read_rows(path)]
        if not found:
            raise DataError(f"{path}: the file has no record; give another")
        records += found
    return records


def usable(
    records: Sequence[Item], parse: Callable[[Item], Parsed], *, strict: bool = False
) -> list[tuple[Item, Parsed]]:
    """Each record with what `parse` makes of it, but for the empty ones, of which a warning tells.

    Raises EmptyRecordError for an empty one with `strict`; DataError as `parse` does, or if no
    record is left.
    """
    kept, empty = [], []
    for record in records:
        try:
            kept.append((record, parse(record)))
        except EmptyRecordError as error:
            if strict:
                raise
            empty.append(error.brief)
    if empty:
        message = left_out(empty, len(records))
        if not kept:
            raise DataError(f"{message}; nothing remains, so give other records")
        warnings.warn(message, stacklevel=3)
    return kept


def left_out(places: Sequence[str], count: int) -> str:
    """That these of so many records are left out, naming the first few."""
    more = f"; and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
    verb = "was" if len(places) == 1 else "were"
    return (
        f"{len(places):,} of {count:,} records {verb} left out: {'; '.join(places[:_NAMED])}{more}"
    )
