"""The text column of Parquet files, through the optional pyarrow."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxgpt.errors import DataError
from jaxgpt.shell import install_extra

_ROWS = 256  # read at a time


def import_parquet() -> Any:
    """The module `pyarrow.parquet`; raises DataError where that is not installed."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(
            "reading Parquet files needs pyarrow, which is not installed; run "
            f"`{install_extra('parquet')}`"
        ) from None


def read_texts(path: Path, name: str = "text") -> Iterator[tuple[object, int]]:
    """The values of the column `name`, each with its share of the bytes of the file.

    Raises DataError if pyarrow is not installed, for no Parquet file, and for no such column.
    """
    parquet = import_parquet()
    size, row = path.stat().st_size, 0
    try:
        with parquet.ParquetFile(path) as table:
            columns = table.schema_arrow.names
            if name not in columns:
                raise DataError(
                    f'{path}: no column "{name}" among {columns[:5]}; name it with --text-field'
                )
            rows = table.metadata.num_rows
            for batch in table.iter_batches(_ROWS, columns=[name]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield value, size * row // rows - size * (row - 1) // rows
    except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow's errors are
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None
