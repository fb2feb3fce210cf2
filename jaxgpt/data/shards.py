"""The token file: a header of 24 bytes, then the ids, everything little-endian.

The header holds a magic word (8 bytes), the version (4), the bytes per id (4) and the number of
ids (8). An id takes 2 bytes where the vocabulary has at most 65,536 tokens, else 4.

Beside the sha256 sum of the whole there is a CRC-32 of each block of 16 KiB, which finds any bit
that has changed, and is quick enough to be compared whenever a block is first read.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int64, UInt, UInt32

from jaxgpt.data.remote import RemoteFile, RemoteIds
from jaxgpt.errors import DataError
from jaxgpt.fields import check
from jaxgpt.files import file_sha256, open_regular, sha256

VERSION = 1
SHARD_TOKENS = 100_000_000
BLOCK = 1 << 14  # bytes, a few times what a window takes

MAGIC = b"JAXGPTOK"
_HEADER = struct.Struct("<8sIIQ")
_PROBES, _PROBE_TOKENS = 16, 4096


def shard_name(split: str, number: int) -> str:
    """The file name of a split's shard, counted from 0."""
    return f"{split}-{number:05d}.bin"


class TokenWriter:
    """Writes the shards of one split; a context manager that completes the last shard on leaving.

    `shards` then lists each shard's file name, number of tokens and sha256 sum, and `sums` the
    CRC-32s of its blocks. Raises ConfigError if `shard_tokens`, the most in a shard, is below 1.
    """

    def __init__(
        self, folder: Path, split: str, vocab_size: int, shard_tokens: int = SHARD_TOKENS
    ) -> None:
        check(shard_tokens >= 1, f"shard_tokens must be at least 1, not {shard_tokens}")
        self.shards: list[dict[str, str | int]] = []
        self.sums: list[UInt32[np.ndarray, " _"]] = []
        self._folder, self._split = folder, split
        self._vocab_size, self._shard_tokens = vocab_size, shard_tokens
        self._dtype = _dtype(vocab_size)
        self._file: BufferedRandom | None = None
        self._filled = 0

    def append(self, ids: Int64[np.ndarray, " N"]) -> None:
        """Write `ids`, in new shards as they fill; DataError for an id outside the vocabulary."""
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
        file.write(_HEADER.pack(MAGIC, VERSION, self._dtype.itemsize, self._filled))
        digest, sums = _sum(file)
        os.fsync(file.fileno())
        file.close()
        name = shard_name(self._split, len(self.shards))
        self.shards.append({"file": name, "tokens": self._filled, "sha256": digest})
        self.sums.append(sums)
        self._file, self._filled = None, 0

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:
            if kind is None:
                self._complete(self._file)
            else:
                self._file.close()


class TokenShard:
    """The ids of one shard, memory-mapped, or fetched where it lies behind a URL.

    Given the sums of its blocks, it compares each with its own before it gives the first id of it.
    A file that is `remade` from the text when it is missing is then put out of the way.
    """

    def __init__(
        self,
        path: Path | str,
        ids: UInt[np.ndarray, " N"] | RemoteIds,
        content: memoryview | RemoteFile,
        sums: UInt32[np.ndarray, " K"] | None = None,
        *,
        remade: bool = False,
    ) -> None:
        self._path, self._ids, self._sums, self._remade = path, ids, sums, remade
        self._content = content
        self._end = content.nbytes if isinstance(content, memoryview) else content.size
        self._unread = bytearray(b"\1" * (0 if sums is None else sums.size))
        self.size = self._ids.size

    def __getitem__(self, part: slice) -> UInt[np.ndarray, " N"]:
        """The ids of a slice of two whole numbers; DataError if a block is not what was written."""
        if self._unread and part.start < part.stop:
            first, last = map(self._block, (part.start, min(part.stop, self.size) - 1))
            try:
                self._compare(first, last)
            except DataError:
                if self._remade and isinstance(self._path, Path):
                    with suppress(OSError):
                        self._path.rename(self._path.with_suffix(f".damaged{self._path.suffix}"))
                raise
        return self._ids[part]

    def verify(self) -> None:
        """Read all of the shard; raises DataError where a block is not what was written."""
        self._compare(0, self._block(self.size - 1))

    def _block(self, place: int) -> int:
        return (_HEADER.size + place * self._ids.itemsize) // BLOCK

    def _compare(self, first: int, last: int) -> None:
        while (block := self._unread.find(1, first, last + 1)) >= 0:
            content = self._content[block * BLOCK : min((block + 1) * BLOCK, self._end)]
            if self._sums is not None and zlib.crc32(content) != self._sums[block]:
                start = block * BLOCK
                what = f"bytes {start} to {start + len(content)} have changed"
                if not self._remade:
                    raise _damaged(self._path, what)
                again = "run the same command again, which makes it again from the text"
                raise DataError(f"{self._path}: {what}; {again}")
            self._unread[block] = 0


def open_shard(
    path: Path | str,
    *,
    tokens: int,
    vocab_size: int,
    sums: UInt32[np.ndarray, " K"] | None = None,
    remade: bool = False,
) -> TokenShard:
    """The shard at `path`, a URL too, after its header and length were found right; `TokenShard`.

    A sample of the ids is compared with `vocab_size`; the writer has checked them all. Raises
    DataError for a shard that is missing, none, truncated or extended, or an id that is too large.
    """
    dtype = _dtype(vocab_size)
    remote = RemoteFile(path) if isinstance(path, str) else None
    if remote is not None:
        size = remote.size
        header = remote[0 : min(size, _HEADER.size)] if size else b""
    else:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        raise _damaged(path, "it does not begin like a token file")
    _, version, itemsize, count = _HEADER.unpack(header)
    if version != VERSION:
        raise _damaged(path, f"it has format version {version}, and this is for {VERSION}")
    if itemsize != dtype.itemsize:
        raise _damaged(
            path, f"its ids take {itemsize} bytes, and {vocab_size} tokens need {dtype.itemsize}"
        )
    # Reading a mapping beyond the end of its file kills the process, so the length comes first.
    expected = shard_bytes(tokens, vocab_size)
    if count != tokens or size != expected:
        raise _damaged(
            path,
            f"it has {size} bytes and says {count} tokens, where the manifest has {tokens} tokens "
            f"in {expected} bytes",
        )
    if remote is not None:
        ids, content = RemoteIds(remote, dtype, _HEADER.size, tokens), remote
    else:
        ids = np.asarray(np.memmap(path, dtype, mode="r", offset=_HEADER.size, shape=(tokens,)))
        content = np.memmap(path, np.uint8, mode="r").data
    for start in range(0, tokens, max(1, tokens // _PROBES)):
        highest = ids[start : start + _PROBE_TOKENS].max()
        if highest >= vocab_size:
            raise _damaged(path, f"it has the id {highest}, outside [0, {vocab_size})")
    return TokenShard(path, ids, content, sums, remade=remade)


def shard_bytes(tokens: int, vocab_size: int) -> int:
    """The length of a shard's file."""
    return _HEADER.size + tokens * _dtype(vocab_size).itemsize


def verify_shard(path: Path, expected: str) -> None:
    """Read all of a shard; raises DataError if its sum is not the one `expected`."""
    found = file_sha256(path)
    if found != expected:
        raise _damaged(path, f"its sha256 sum is {found}, where the manifest has {expected}")


def _sum(file: BinaryIO) -> tuple[str, UInt32[np.ndarray, " K"]]:
    """The sha256 sum of a file, and the CRC-32 of each of its blocks."""
    file.seek(0)
    sums: list[int] = []

    def blocks() -> Iterator[bytes]:
        while block := file.read(BLOCK):
            sums.append(zlib.crc32(block))
            yield block

    return sha256(blocks()), np.array(sums, np.uint32)


def _dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _damaged(path: Path | str, what: str) -> DataError:
    return DataError(f"{path}: not the token file it should be: {what}; prepare the data again")
