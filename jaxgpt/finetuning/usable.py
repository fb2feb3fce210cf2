"""Records -> what can be learnt of them; those with nothing in them are left out, and counted."""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from jaxgpt.errors import DataError
from jaxgpt.finetuning.records import EmptyRecordError

Item = TypeVar("Item")
Parsed = TypeVar("Parsed")
_NAMED = 3  # of those left out, in the warning


def usable(
    records: Sequence[Item], parse: Callable[[Item], Parsed], *, strict: bool = False
) -> list[tuple[Item, Parsed]]:
    """Each record with what `parse` makes of it, but for the empty ones, of which a warning tells.

    Raises:
        EmptyRecordError: an empty one, with `strict`.
        DataError: what else `parse` raises; no record that is left.
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
