"""Prepared tokens behind a URL: small files copied, shards read in ranges, through fsspec."""

import importlib
import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from jaxgpt.errors import DataError
from jaxgpt.shell import install_extra

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_RANGE = 1 << 14  # bytes asked for at once: a block of a shard's sums
_RANGES = 256  # kept of a file
_PAUSES = (0.5, 2.0)  # seconds before a read that failed is tried again
_FINAL = (FileNotFoundError, PermissionError, ValueError)  # which another try does not mend


def is_url(name: object) -> bool:
    """Whether a name is a URL, such as s3://bucket/folder, rather than a path."""
    return isinstance(name, str) and _URL.match(name) is not None


class RemoteFile:
    """The bytes of a file behind a URL, fetched in ranges where they are sliced.

    Raises DataError where fsspec, or what it needs for this kind of URL, is not installed, and
    where the file cannot be read in three tries.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._files, self._path = _opened(url)
        self.size = int(self._told(lambda: self._files.size(self._path)) or 0)
        self._range = lru_cache(_RANGES)(self._fetch)

    def __getitem__(self, part: slice) -> bytes:
        first, last = part.start // _RANGE, (part.stop - 1) // _RANGE
        content = b"".join(map(self._range, range(first, last + 1)))
        return content[part.start - first * _RANGE : part.stop - first * _RANGE]

    def _fetch(self, number: int) -> bytes:
        start, stop = number * _RANGE, min((number + 1) * _RANGE, self.size)
        content = self._told(lambda: self._files.cat_file(self._path, start=start, end=stop))
        if len(content) > stop - start:
            raise DataError(
                f"{self._url}: its server gives whole files where ranges are asked for; copy the "
                "folder here, or to a server that gives ranges"
            )
        if len(content) != stop - start:
            raise DataError(f"{self._url}: bytes {start} to {stop} could not be read; try again")
        return content

    def _told(self, read: Callable[[], Any]) -> Any:
        for pause in (*_PAUSES, None):
            try:
                return read()
            except Exception as error:  # of any class: each kind of store has its own
                if pause is None or isinstance(error, _FINAL):
                    raise _unreadable(self._url, error) from None
                time.sleep(pause)


class RemoteIds:
    """The ids in a `RemoteFile`, behind its header."""

    def __init__(self, content: RemoteFile, dtype: np.dtype, offset: int, size: int) -> None:
        self._content, self._dtype, self._offset = content, dtype, offset
        self.itemsize, self.size = dtype.itemsize, size

    def __getitem__(self, part: slice) -> UInt[np.ndarray, " N"]:
        start, stop = part.start, min(part.stop, self.size)
        if start >= stop:
            return np.empty(0, self._dtype)
        begin, end = (self._offset + place * self.itemsize for place in (start, stop))
        return np.frombuffer(self._content[begin:end], self._dtype)


def copy_small_files(url: str, names: tuple[str, ...], folder: Path, limit: int) -> None:
    """Copy those of the files that are in the folder behind `url` into `folder`.

    Raises DataError as `RemoteFile` does, and for a file of more than `limit` bytes.
    """
    files, path = _opened(url)
    for name in names:
        source, copy = f"{path.rstrip('/')}/{name}", folder / name
        try:
            if not files.exists(source):
                continue
            if (size := files.size(source)) > limit:
                raise DataError(f"{url}/{name} has {size:,} bytes; at most {limit:,} are read")
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(files.cat_file(source))
        except DataError:
            raise
        except Exception as error:
            raise _unreadable(f"{url}/{name}", error) from None


def _opened(url: str) -> tuple[Any, str]:
    try:
        return importlib.import_module("fsspec.core").url_to_fs(url)
    except ImportError as error:
        missing = "" if "fsspec" in str(error) else f" ({error})"
        raise DataError(
            f"{url} is read through fsspec, which lacks what it needs{missing}; run "
            f"`{install_extra('remote')}`, and install what it names, or copy the folder here"
        ) from None
    except Exception as error:
        raise _unreadable(url, error) from None


def _unreadable(url: str, error: Exception) -> DataError:
    return DataError(f"{url} cannot be read: {str(error) or type(error).__name__}")
