"""Files that nobody has to trust: read within bounds, parsed strictly, written whole.

Standard library only. What is wrong with a file is one line that names it, raised as the kind of
error that the caller reads it for.
"""

import errno
import hashlib
import itertools
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from jaxgpt.errors import DataError, JaxgptError, ResourceError, brief

JSON_BYTES = 1_000_000
"""The most that a JSON file of settings, sums or names may have."""
NESTING = 200
"""Lists and mappings within each other."""

_SEAL = "sha256"
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_regular(
    path: str | Path, *, limit: int | None = None, error: type[JaxgptError] = DataError
) -> bytes:
    """The bytes of a regular file; the errors are those of `open_regular`."""
    with open_regular(path, limit=limit, error=error) as file:
        try:
            return file.read()
        except OSError as failure:
            raise error(f"{path} cannot be read: {failure.strerror}") from None


def open_regular(
    path: str | Path, *, limit: int | None = None, error: type[JaxgptError] = DataError
) -> BufferedReader:
    """A regular file, or one that a link leads to, open for reading.

    Raises `error` for none, a folder, pipe or device (never opened), too many bytes, no permission.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
            raise error(f"{path} is {kind}, not a regular file; name a file")
        if limit is not None and found.st_size > limit:
            raise error(f"{path} has {found.st_size:,} bytes; at most {limit:,} are read")
        return open(path, "rb")
    except OSError as failure:
        raise error(f"{path} cannot be read: {failure.strerror}") from None
    except ValueError as failure:  # a name with a NUL byte or a lone surrogate
        raise error(f"{str(path)!r} cannot be the name of a file: {failure}") from None


def sha256(content: bytes | Iterable[bytes | memoryview]) -> str:
    """The sha256 sum of bytes, or of parts of them one behind the other, in hexadecimal."""
    digest = hashlib.sha256()
    for part in (content,) if isinstance(content, bytes) else content:
        digest.update(part)
    return digest.hexdigest()


def file_sha256(path: str | Path, *, error: type[JaxgptError] = DataError) -> str:
    """The sha256 sum of a regular file in hexadecimal; the errors are those of `open_regular`."""
    with open_regular(path, error=error) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as failure:
            raise error(f"{path} cannot be read: {failure.strerror}") from None


def parse_json(text: str, *, long_ints: bool = False) -> Any:
    """The value of a JSON text, without what other readers of JSON would disagree on.

    With `long_ints` a whole number beyond 64 bits becomes a float. Raises ValueError for no JSON (a
    json.JSONDecodeError, with line and column), a key given twice, NaN or Infinity, a number beyond
    64 bits or a double, half of a surrogate pair, and more than `NESTING` levels.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_constant=_refuse_constant,
            parse_int=_any_int if long_ints else _bounded_int,
            parse_float=_bounded_float,
        )
        check_values(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def check_values(value: Any) -> None:
    """Raise ValueError on numbers, texts and nesting that `parse_json` refuses."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > NESTING:
            raise ValueError(f"it is nested too deeply; {NESTING} levels are read")
        for item in level:
            if isinstance(item, int) and not -(2**63) <= item < 2**64:
                raise ValueError(f"{brief(item)} is beyond 64 bits")
            if isinstance(item, str) and _SURROGATE.search(item):
                raise ValueError(f"{item[:40]!a} has half of a surrogate pair")
        level = [inner for item in level for inner in _items(item)]


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return itertools.chain(value, value.values())
    return value if isinstance(value, list) else ()


def read_json(
    path: str | Path,
    *,
    limit: int = JSON_BYTES,
    error: type[JaxgptError] = DataError,
    long_ints: bool = False,
) -> Any:
    """The value in a JSON file by `read_regular` and `parse_json`, without a byte-order mark."""
    content = read_regular(path, limit=limit, error=error)
    try:
        return parse_json(content.decode("utf-8-sig"), long_ints=long_ints)
    except json.JSONDecodeError as failure:
        where = f"line {failure.lineno}, column {failure.colno}"
        raise error(f"{path} is not JSON: {failure.msg} at {where}") from None
    except ValueError as failure:
        raise error(f"{path} cannot be used: {failure}") from None


def read_object(
    path: str | Path, *, error: type[JaxgptError] = DataError, **options: Any
) -> dict[str, Any]:
    """The mapping in a JSON file by `read_json`, of which `options` are; raises `error`."""
    values = read_json(path, error=error, **options)
    if not isinstance(values, dict):
        raise error(f"{path} holds a {type(values).__name__}, not a mapping")
    return values


def read_sealed(
    path: str | Path, *, limit: int = JSON_BYTES, error: type[JaxgptError] = DataError
) -> tuple[dict[str, Any], bool]:
    """The mapping in a JSON file, and whether the file is as `seal` made it; raises `error`."""
    values = read_object(path, limit=limit, error=error)
    return values, is_sealed(read_regular(path, limit=limit, error=error), values)


def seal(values: dict[str, Any]) -> bytes:
    """A JSON file of `values` with a sum over the whole file under the key "sha256"."""
    blank = json.dumps({**values, _SEAL: ""}, indent=2).encode()
    return json.dumps({**values, _SEAL: sha256(blank)}, indent=2).encode()


def is_sealed(content: bytes, values: dict[str, Any]) -> bool:
    """Whether the file that `values` were parsed from is, byte for byte, what `seal` made."""
    found = values.get(_SEAL)
    if not isinstance(found, str) or not found:
        return False
    blank = content.replace(json.dumps(found).encode(), b'""', 1)
    return sha256(blank) == found


def member(folder: str | Path, name: Any, *, error: type[JaxgptError] = DataError) -> Path:
    """The path of what a listing in `folder` calls `name`, which must lie inside of the folder.

    Nothing is opened, and the file need not exist. Raises `error` for what is not a string, is
    empty, absolute, with `..`, NUL, or half of a surrogate pair, or has a part of over 255 bytes.
    """
    if not isinstance(name, str):
        raise error(f"{folder} lists {name!r} as a file; it must be a name")
    parts = name.split("/")
    try:
        longest = max(len(os.fsencode(part)) for part in parts)
    except UnicodeEncodeError:
        longest = 0
        parts = [""]
    if "\0" in name or "\\" in name or longest > 255 or any(x in ("", ".", "..") for x in parts):
        raise error(f"{folder} lists {name[:80]!r}, which is no name of a file inside it")
    return Path(folder, name)


def write_file(path: str | Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    The draft beside it has a name that cannot be guessed and is not opened through a link; a link
    at `path` itself is replaced. Raises ResourceError if the disk is full, else OSError.
    """
    with draft_of(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def draft_of(path: str | Path) -> Iterator[Path]:
    """A new empty file beside `path` to write into, which takes its place when the body is done.

    It is removed if the body fails; errors are those of `write_file`.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.partial")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield draft
            with open(draft, "rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"{path}: the disk is full; the file was not changed, make room and run again"
            ) from None
        raise


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `json.loads` to make; raises ValueError if a key stands twice."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice} stands twice")
    return mapping


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that a setting can have")


def _bounded_int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        shown = digits if len(digits) <= 24 else f"{digits[:20]}... ({len(digits)} digits)"
        raise ValueError(f"the number {shown} is beyond 64 bits")
    return int(digits)


def _any_int(digits: str) -> int | float:
    try:
        return _bounded_int(digits)
    except ValueError:
        return _bounded_float(digits)


def _bounded_float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        shown = digits if len(digits) <= 24 else f"{digits[:20]}..."
        raise ValueError(f"the number {shown} is beyond the largest double, 1.8e308")
    return value
