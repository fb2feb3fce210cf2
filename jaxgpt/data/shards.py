"""The token file: a header of 24 bytes, then the ids, everything little-endian.

The header holds a magic word (8 bytes), the version (4), the bytes per id (4) and the number of
ids (8). An id takes 2 bytes where the vocabulary has at most 65,536 tokens, else 4.
"""

import hashlib
import os
import struct
from io import BufferedRandom
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt

from jaxgpt.errors import ConfigError, DataError

VERSION = 1
SHARD_TOKENS = 100_000_000

_MAGIC = b"JAXGPTOK"
_HEADER = struct.Struct("<8sIIQ")
_DTYPES = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_PROBES, _PROBE_TOKENS = 16, 4096


def shard_name(split: str, number: int) -> str:
    """The file name of a split's shard, counted from 0."""
    return f"{split}-{number:05d}.bin"


class TokenWriter:
    """Writes the shards of one split; a context manager that completes the last shard on leaving.

    `shards` then lists each shard's file name, number of tokens and sha256 sum.

    Raises:
        ConfigError: `shard_tokens`, the most that a shard holds, is below 1.
    """

    def __init__(
        self, folder: Path, split: str, vocab_size: int, shard_tokens: int = SHARD_TOKENS
    ) -> None:
        if shard_tokens < 1:
            raise ConfigError(f"shard_tokens must be at least 1, not {shard_tokens}")
        self.shards: list[dict[str, str | int]] = []
        self._folder, self._split = folder, split
        self._vocab_size, self._shard_tokens = vocab_size, shard_tokens
        self._dtype = _dtype(vocab_size)
        self._file: BufferedRandom | None = None
        self._filled = 0

    def append(self, ids: Int64[np.ndarray, " N"]) -> None:
        """Write `ids` after those before, starting new shards as they fill.

        Raises:
            DataError: an id outside `[0, vocab_size)`.
        """
        # Before the cast, which would wrap around without a word.
        bad = ids[(ids < 0) | (ids >= self._vocab_size)]
        if bad.size:
            raise DataError(
                f"the tokenizer gave the id {bad[0]}, outside its vocabulary "
                f"[0, {self._vocab_size}); its files do not belong together, get them anew"
            )
        tokens = ids.astype(self._dtype)
        while tokens.size:
            file = self._file or self._start()
            taken = tokens[: self._shard_tokens - self._filled]
            file.write(taken.tobytes())
            self._filled += taken.size
            tokens = tokens[taken.size :]
            if self._filled == self._shard_tokens:
                self._complete(file)

    def _start(self) -> BufferedRandom:
        path = self._folder / shard_name(self._split, len(self.shards))
        self._file = open(path, "w+b")  # noqa: SIM115
        self._file.write(bytes(_HEADER.size))
        return self._file

    def _complete(self, file: BufferedRandom) -> None:
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, VERSION, self._dtype.itemsize, self._filled))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        file.close()
        name = shard_name(self._split, len(self.shards))
        self.shards.append({"file": name, "tokens": self._filled, "sha256": digest})
        self._file, self._filled = None, 0

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:
            if kind is None:
                self._complete(self._file)
            else:
                self._file.close()


def open_shard(path: Path, *, tokens: int, vocab_size: int) -> UInt[np.ndarray, " N"]:
    """The ids in a shard, memory-mapped, after its header and length were found right.

    A sample of the ids is compared with `vocab_size`; the writer has checked them all.

    Raises:
        DataError: missing, not a shard, truncated or extended, or an id outside the vocabulary.
    """
    dtype = _dtype(vocab_size)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            header = file.read(_HEADER.size)
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror})") from None
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise _damaged(path, "it does not begin like a token file")
    _, version, itemsize, count = _HEADER.unpack(header)
    if version != VERSION:
        raise _damaged(path, f"it has format version {version}, and this is for {VERSION}")
    if itemsize != dtype.itemsize:
        raise _damaged(
            path, f"its ids take {itemsize} bytes, and {vocab_size} tokens need {dtype.itemsize}"
        )
    # Reading a mapping beyond the end of its file kills the process, so the length comes first.
    expected = _HEADER.size + tokens * itemsize
    if count != tokens or size != expected:
        raise _damaged(
            path,
            f"it has {size} bytes and says {count} tokens, where the manifest has {tokens} tokens "
            f"in {expected} bytes",
        )
    ids = np.asarray(np.memmap(path, dtype, mode="r", offset=_HEADER.size, shape=(tokens,)))
    for start in range(0, tokens, max(1, tokens // _PROBES)):
        highest = ids[start : start + _PROBE_TOKENS].max()
        if highest >= vocab_size:
            raise _damaged(path, f"it has the id {highest}, outside [0, {vocab_size})")
    return ids


def verify_shard(path: Path, sha256: str) -> None:
    """Read all of a shard and compare its sum with the manifest's.

    Raises:
        DataError: the sums differ.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise _damaged(path, f"its sha256 sum is {found}, where the manifest has {sha256}")


def _dtype(vocab_size: int) -> np.dtype:
    return _DTYPES[2 if vocab_size <= 1 << 16 else 4]


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: not the token file it should be: {what}; prepare the data again")
